"""The boundaries of docs/architecture.md: who may import what."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEPS = sorted(path.parent.name for path in (ROOT / "components").glob("*/__init__.py"))
SHARED = {"chat", "store", "progress", "tracking", "report", "images", "step_config", "buckets"}

# Modules that a run file is checked with: they load in a blink, on a machine without a single model library.
LIGHT = sorted(
    [f"components.{path.parent.name}.config" for path in (ROOT / "components").glob("*/config.py")]
    + ["components.step_config", "pipelines.run_config", "serving.release"]
)
HEAVY = {"torch", "kfp", "transformers", "kserve", "datasets", "mlflow", "openvino_genai", "numpy", "kubernetes"}

# What a step may import beside itself and the shared modules. config.py may import every other config.py.
EXCEPTIONS = {
    "resolve_champion": {
        "components.*.config": "the first step validates all seven parameters",
        "components.rollout": "the rollout target is what knows which release is live",
    },
    "fetch_base": {"serving": "a base may be an own release"},
    "package_release": {
        "components.rollout.config": "the rollout parameter names the form of the release",
        "serving.engine": "golden answers come from the engine that serves",
        "serving.release": "it writes one",
    },
    "evaluate": {
        "serving.engine": "scores and samples come from the weights that are served",
        "serving.release": "it reads them",
    },
    "rollout": {
        "serving.engine": "the target starts what the release names",
        "serving.release": "it verifies them",
    },
}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """components/store.py -> components.store"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere, in functions too; `from a import b` is a.b when that is a module."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                beneath = ROOT.joinpath(*source.split("."), alias.name)
                yield f"{source}.{alias.name}" if beneath.is_dir() or beneath.with_suffix(".py").exists() else source


def within(name: str, allowed: str) -> bool:
    """Whether `name` is the module `allowed` or lies in it; "*" stands for one part."""
    parts = allowed.split(".")
    return all(part in ("*", mine) for part, mine in zip(parts, [*name.split("."), *[""] * len(parts)], strict=False))


def test_schemas_import_nothing_heavy():
    """In a process of its own, one after the other, so that the first one to blame is named."""
    code = f"""
import importlib, sys
for module in {LIGHT!r}:
    importlib.import_module(module)
    heavy = sorted({HEAVY!r} & sys.modules.keys())
    if heavy:
        sys.exit(f"{{module}} imports {{', '.join(heavy)}}")
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("step", STEPS)
def test_steps_import_neither_each_other_nor_more_of_serving_than_agreed(step):
    allowed = [f"components.{step}", "components.step_config", *(f"components.{name}" for name in SHARED)]
    allowed += EXCEPTIONS.get(step, {})
    for path in modules(f"components/{step}"):
        here = [*allowed, "components.*.config", "serving.release"] if path.name == "config.py" else allowed
        for name in imports(path):
            if name.startswith(("components.", "serving", "pipelines")):
                assert any(within(name, prefix) for prefix in here), f"{dotted(path)} imports {name}"


def test_shared_modules_import_no_step():
    for name in SHARED:
        for found in imports(ROOT / "components" / f"{name}.py"):
            inner = found.startswith(("components.", "serving", "pipelines"))
            assert not inner or found.removeprefix("components.") in SHARED, f"components.{name} imports {found}"


def test_serving_imports_nothing_of_components_or_pipelines():
    for path in modules("serving"):
        for name in imports(path):
            assert name.split(".")[0] not in ("components", "pipelines"), f"{dotted(path)} imports {name}"


def test_torch_is_imported_by_the_fallback_engine_and_the_weights_reader_only():
    found = {dotted(p) for p in modules("serving") if {"torch", "transformers"} & {n.split(".")[0] for n in imports(p)}}
    assert found <= {"serving.engine.transformers", "serving.engine.weights"}


def test_below_the_faces_nothing_knows_kfp():
    found = {p.relative_to(ROOT) for p in modules("components") if any(n.split(".")[0] == "kfp" for n in imports(p))}
    assert {path.name for path in found} == {"component.py"}


def test_the_list_of_shared_modules_is_closed():
    assert {path.stem for path in (ROOT / "components").glob("*.py")} - {"__init__"} == SHARED


def test_architecture_names_the_shared_modules():
    lines = (ROOT / "docs/architecture.md").read_text().splitlines()
    line = next((line for line in lines if line.startswith("Shared modules:")), "")
    assert {Path(name).stem for name in re.findall(r"`([^`]+)`", line)} == SHARED


@pytest.mark.parametrize("shared", sorted(SHARED))
def test_a_shared_module_has_two_users(shared):
    name = f"components.{shared}"
    users = {step for step in STEPS for path in modules(f"components/{step}") if name in imports(path)}
    assert len(users) >= 2, f"components/{shared}.py is used by {sorted(users)} only: it belongs there"
