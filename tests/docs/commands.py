"""The commands of a page, and whether each of them exists: targets, flags, roots, outputs, files, and of the programs
of others the words that this project uses."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from pipelines import cli
from tests.terraform import hcl

ROOT = Path(__file__).parents[2]
ROOTS = ROOT / "terraform/environments"

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:make|gh|gcloud|kubectl|terraform|curl|(?:\.venv/bin/)?slipway|\.venv/bin/python) [^`]+)`")
_SEPARATORS = {"|", "&&", ";", "&", "||"}

OTHERS = {
    "gcloud": {
        "auth login": set(),
        "auth application-default login": set(),
        "auth application-default revoke": set(),
        "auth application-default set-quota-project": set(),
        "billing accounts add-iam-policy-binding": {"--member", "--role"},
        "billing projects link": {"--billing-account"},
        "config set project": set(),
        "filestore instances delete": {"--location"},
        "filestore instances list": set(),
        "iam service-accounts keys list": set(),
        "projects create": set(),
        "projects delete": set(),
        "secrets versions access": {"--secret"},
        "secrets versions add": {"--data-file"},
        "services enable": set(),
        "sql instances list": set(),
        "sql users assign-roles": {"--instance", "--type", "--database-roles"},
        "sql users list": {"--instance"},
        "storage buckets create": {"--location", "--uniform-bucket-level-access"},
        "storage buckets update": {"--versioning"},
        "storage cp": set(),
        "storage rm": {"--recursive"},
    },
    "kubectl": {
        "create secret generic": {"--namespace", "--from-file"},
        "delete": {"--all", "--namespace", "-l"},
        "get": {"--namespace", "--output"},
        "port-forward": {"--namespace"},
    },
    "gh": {
        "api": {"--jq"},
        "run download": {"--name", "--dir"},
        "run watch": set(),
        "variable delete": set(),
        "variable set": {"--body"},
        "workflow run": {"-f"},
    },
    "git": {"add": set(), "commit": {"--all", "--message"}, "push": set()},
    "curl": {"": {"-s", "-sI", "-H", "-d"}},
    "cp": {"": set()},
    "export": {"": set()},
    "set": {"": {"-a"}},
    ".": {"": set()},
}
"""Program -> the words that it is called with -> the flags that they take."""


def commands(page: str) -> Iterator[list[str]]:
    """Every simple command of the page's shell blocks and of its running text, those inside $(…) too."""
    for block in _BLOCK.findall(page):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            yield from _simple(line)
    for text in _INLINE.findall(_BLOCK.sub("", page)):
        yield from _simple(text)


def _simple(line: str) -> Iterator[list[str]]:
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from _simple(inner)
    lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "X", line), posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in _SEPARATORS:
            if words := _called(words):
                yield words
            words = []
        else:
            words.append(word)


def _called(words: list[str]) -> list[str]:
    """A command without redirections; `eval` of what another one prints is that one's."""
    redirected = next((at for at, word in enumerate(words) if word in ("<", ">")), len(words))
    words = words[:redirected]
    return [] if words[:1] == ["eval"] else words


def problems(page: str) -> list[str]:
    """What of a page's commands does not exist."""
    return [f"{' '.join(words)}: {problem}" for words in commands(page) for problem in check(words)]


def check(words: list[str]) -> list[str]:
    """What of one command does not exist."""
    program = words[0].removeprefix(".venv/bin/")
    ours: dict[str, Callable[[list[str]], list[str]]] = {
        "make": _make,
        "slipway": _slipway,
        "python": _python,
        "terraform": _terraform,
    }
    if program in ours:
        return ours[program](words[1:])
    if program not in OTHERS:
        return [f"{program} is no program that this page may use; add it to tests/docs/commands.py"]
    return _other(program, words[1:])


def _make(words: list[str]) -> list[str]:
    text = (ROOT / "Makefile").read_text()
    targets = {name for line in re.findall(r"^([a-z][a-z -]*):", text, re.MULTILINE) for name in line.split()}
    found = [f"no target {one}" for one in words if "=" not in one and one not in targets]
    names = [one.partition("=")[0] for one in words if "=" in one]
    return found + [
        f"the Makefile reads no {name}" for name in names if not re.search(rf"\$\((if \$\()?{name}\)", text)
    ]


def _slipway(words: list[str]) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            cli._parser().parse_args(words)
    except SystemExit as ended:
        return [] if not ended.code else [said.getvalue().strip().splitlines()[-1]]
    except argparse.ArgumentError as error:
        return [str(error)]
    return []


def _python(words: list[str]) -> list[str]:
    if words[:1] != ["-m"]:
        return ["a module is called with -m"]
    path = ROOT / words[1].replace(".", "/")
    source = next((one for one in (path.with_suffix(".py"), path / "__main__.py") if one.exists()), None)
    if source is None:
        return [f"no module {words[1]}"]
    flags = [one for one in words[2:] if one.startswith("-")]
    return [f"{words[1]} takes no {flag}" for flag in flags if f'"{flag}"' not in source.read_text()]


def _terraform(words: list[str]) -> list[str]:
    place = next((one.removeprefix("-chdir=") for one in words if one.startswith("-chdir=")), "")
    rest = [one for one in words if not one.startswith("-chdir=")]
    if not rest:
        return ["no command"]
    if rest[0] not in ("init", "apply", "destroy", "output"):
        return [f"no command {rest[0]} on this page"]
    # in the text the root is the one that the page is about
    folder = ROOT / place if place else ROOTS / "gke"
    if not (folder / "versions.tf").exists():
        return [f"no root {place}"]
    blocks = hcl.read(folder)
    found = []
    for word in rest[1:]:
        name, _, value = word.partition("=")
        if name == "-var-file" and not (folder / value).exists():
            found.append(f"no file {value} in {place}")
        if name == "-backend-config" and "=" not in value and not (folder / value).exists():
            found.append(f"no file {value} in {place}")
        if not word.startswith("-") and rest[0] == "output" and word not in hcl.named(blocks, "output"):
            found.append(f"no output {word}")
    given = [rest[at + 1].partition("=")[0] for at, word in enumerate(rest) if word == "-var"]
    return found + [f"no variable {name}" for name in given if name not in hcl.named(blocks, "variable")]


def _other(program: str, words: list[str]) -> list[str]:
    known = OTHERS[program]
    said = " ".join(words)
    called = max((one for one in known if (said + " ").startswith(f"{one} " if one else "")), key=len, default=None)
    if called is None:
        what = f"{program} {' '.join(words[:3])}"
        return [f"no `{what}` on this page; add it to tests/docs/commands.py once it was looked up"]
    flags = [re.sub(r"=.*", "", one) for one in words if re.match(r"--?[A-Za-z]", one)]
    found = [f"`{program} {called}` takes no {flag}" for flag in flags if flag not in known[called]]
    if program == "gh" and called.startswith("variable "):
        found += [problem for name in words[2:3] for problem in _variable(name)]
    if program == "gh" and called == "workflow run":
        found += _workflow(words[2], [one.partition("=")[0] for one in words[4::2]])
    return found


def _variable(name: str) -> list[str]:
    told = set(re.findall(r"`(SLIPWAY_[A-Z_]+)`", (ROOT / ".github/workflows/README.md").read_text()))
    return [] if name in told else [f"no workflow reads the variable {name}"]


def _workflow(name: str, inputs: list[str]) -> list[str]:
    file = ROOT / f".github/workflows/{name}.yml"
    if not file.exists():
        return [f"no workflow {name}"]
    triggers = yaml.safe_load(file.read_text())[True]  # YAML reads the key `on` as a boolean
    known = (triggers.get("workflow_dispatch") or {}).get("inputs", {})
    return [f"the workflow {name} has no input {one}" for one in inputs if one not in known]


def links(page: Path) -> list[str]:
    """Targets of a page's links that do not exist, anchors too."""
    found = []
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if path.is_dir():
            path = path / "README.md"
        if not path.exists() or (anchor and anchor not in _anchors(path.read_text())):
            found.append(target)
    return found


def _anchors(text: str) -> set[str]:
    """As GitHub makes them from headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
