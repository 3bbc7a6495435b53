"""Every environment variable that the code reads stands in .env.example, and nothing else does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.fetch import settings as fetch
from serving.settings import Settings, environment_names

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("components", "pipelines", "serving") for path in (ROOT / folder).rglob("*.py"))

# Who may be given the environment as a whole; what it reads there is asked of it below.
READERS = {"read_settings"}


def is_environ(node: ast.expr) -> bool:
    return ast.unparse(node) == "os.environ"


def read_name(node: ast.AST) -> ast.expr | None:
    """The expression that names the variable, when this node reads one; setting one is not reading it."""
    match node:
        case ast.Subscript(value=value, slice=name, ctx=ast.Load()) if is_environ(value):
            return name
        case ast.Call(func=ast.Attribute(value, "get" | "pop" | "setdefault"), args=[name, *_]) if is_environ(value):
            return name
        case ast.Call(func=ast.Attribute(ast.Name("os"), "getenv"), args=[name, *_]):
            return name
        case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[value]) if is_environ(value):
            return name
    return None


def literals_passed(tree: ast.Module, function: ast.FunctionDef, parameter: str) -> list[str]:
    """The strings that calls in the same module pass for a parameter; [] when one of them is not a literal."""
    position = [argument.arg for argument in function.args.args].index(parameter)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function.name:
            passed = node.args[position] if position < len(node.args) else None
            if not (isinstance(passed, ast.Constant) and isinstance(passed.value, str)):
                return []
            found.append(passed.value)
    return found


def variables(source: str) -> Iterator[str]:
    """Names of the variables that a module reads; raises ValueError for a name that cannot be known from the source."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {a.name for a in node.names} & {"environ", "getenv"}
        ):
            raise ValueError(f"line {node.lineno}: write os.environ, so that this test finds what is read")
        if isinstance(node, ast.Call) and any(is_environ(argument) for argument in node.args):
            if ast.unparse(node.func).rpartition(".")[2] not in READERS:
                raise ValueError(f"line {node.lineno}: {ast.unparse(node)} may read anything; add it to READERS")
            continue
        name = read_name(node)
        if name is None:
            continue
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            yield name.value
            continue
        around = [f for f in functions if node in ast.walk(f) and ast.unparse(name) in [a.arg for a in f.args.args]]
        passed = literals_passed(tree, around[-1], ast.unparse(name)) if around else []
        if not passed:
            raise ValueError(f"line {name.lineno}: the variable's name {ast.unparse(name)} is not a literal")
        yield from passed


def test_code_and_example_name_the_same_variables():
    read = {*environment_names().values(), *fetch.environment_names().values()}
    for path in SOURCES:
        read |= set(variables(path.read_text()))
    example = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert {"read, not in .env.example": read - example, "in .env.example, not read": example - read} == {
        "read, not in .env.example": set(),
        "in .env.example, not read": set(),
    }


def test_contributing_names_what_tests_and_tools_read():
    read = set[str]()
    for folder in ("tests", "images", "manifests", "terraform", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            read |= set(re.findall(r"environ(?:ment)?(?:\.get\(|\[)\"(SLIPWAY_[A-Z_]+)\"", path.read_text()))
    rows = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(SLIPWAY_[A-Z_]+)`", row.split("|")[1])}
    assert told == read - set(re.findall(r"^#(SLIPWAY\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("schema", "names"), [(Settings, environment_names()), (fetch.FetchSettings, fetch.environment_names())]
)
def test_example_states_the_defaults(schema, names):
    example = dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    defaults = {variable: str(schema.model_fields[field].default) for field, variable in names.items()}
    assert {variable: example.get(variable) for variable in defaults} == defaults


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os\nos.environ['A']", {"A"}),
        ("import os\nos.environ.get('A', 'x') or os.getenv('B')", {"A", "B"}),
        ("import os\n'A' in os.environ", {"A"}),
        ("import os\nos.environ['A'] = 'x'", set()),
        ("import os\nenv = os.environ | {'A': 'x'}", set()),
        ("import os\ndef f(text, name):\n    return os.getenv(name)\nf('x', 'A')\nf('x', 'B')", {"A", "B"}),
    ],
)
def test_reads_are_found(source, names):
    assert set(variables(source)) == names


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.getenv('A' + x)",
        "import os\ndef f(name):\n    os.getenv(name)\nf(x)",
        "import os\nread(os.environ)",
    ],
)
def test_a_name_that_cannot_be_known_is_refused(source):
    with pytest.raises(ValueError, match="line"):
        list(variables(source))
