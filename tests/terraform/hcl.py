"""Just enough of HCL to find blocks: files formatted by `terraform fmt`, so that a block ends where its brace stands
at the indentation at which it began."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEAD = re.compile(r'^( *)(\w+)((?: "[^"]+")*) \{(.*)$')


@dataclass(frozen=True)
class Block:
    """One block: its kind (`variable`), labels (`name`) and the text between the braces."""

    kind: str
    labels: tuple[str, ...]
    body: str

    @property
    def name(self) -> str:
        return self.labels[-1] if self.labels else ""

    def inner(self, kind: str) -> list[Block]:
        """The blocks of a kind directly inside."""
        return [one for one in blocks(self.body) if one.kind == kind]


def blocks(text: str) -> Iterator[Block]:
    """The outermost blocks of a text."""
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        head = _HEAD.match(lines[position])
        position += 1
        if not head:
            continue
        indent, kind, labels, rest = head.groups()
        names = tuple(re.findall(r'"([^"]+)"', labels))
        if rest.rstrip().endswith("}"):
            yield Block(kind, names, rest.rstrip()[:-1])
            continue
        body = []
        while lines[position] != f"{indent}}}":
            body.append(lines[position])
            position += 1
        position += 1
        yield Block(kind, names, "\n".join(body))


def read(directory: Path, pattern: str = "*.tf") -> list[Block]:
    """All outermost blocks of a directory's files."""
    return [one for path in sorted(directory.glob(pattern)) for one in blocks(path.read_text())]


def named(found: list[Block], kind: str) -> dict[str, Block]:
    """Blocks of one kind by their last label."""
    return {one.name: one for one in found if one.kind == kind}
