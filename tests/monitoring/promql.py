"""What a PromQL expression names: metrics, labels and label values. That it is PromQL at all is promtool's to say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<number>\d[\w.]*)|(?P<name>[A-Za-z_:][\w:]*)|(?P<other>[=!]~|[!=<>]=|\S)""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_KEYWORDS = _GROUPING | {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_AGGREGATIONS = {"sum", "min", "max", "avg", "count", "group", "topk", "bottomk", "quantile", "stddev", "count_values"}


@dataclass(frozen=True)
class Selector:
    """One metric as a query selects it; matchers are (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()


@dataclass
class Query:
    """What an expression names."""

    selectors: list[Selector] = field(default_factory=list)
    grouping: set[str] = field(default_factory=set)
    """Labels in by, on and the like."""

    functions: set[str] = field(default_factory=set)

    @property
    def metrics(self) -> set[str]:
        return {one.metric for one in self.selectors}


def read(expression: str) -> Query:
    """The names in an expression. Raises ValueError for what is not read here, such as a label without a value."""
    tokens = [(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(expression)]
    tokens += [("other", "")] * 2
    found, position = Query(), 0
    while position < len(tokens) - 2:
        kind, text = tokens[position]
        after = tokens[position + 1][1]
        if kind == "name" and text in _GROUPING:
            if after == "(":
                end = _closing(tokens, position + 1, ")")
                found.grouping |= {word for kind, word in tokens[position + 2 : end] if kind == "name"}
                position = end
        elif kind == "name" and ((text in _AGGREGATIONS and after in {"by", "without"}) or after == "("):
            found.functions.add(text)
        elif kind == "name" and text not in _KEYWORDS:
            end = _closing(tokens, position + 1, "}") if after == "{" else position
            found.selectors.append(Selector(text, _matchers(tokens[position + 2 : end])))
            position = end
        elif text == "{":
            raise ValueError(f"a selector without a metric's name: {expression}")
        position += 1
    return found


def _closing(tokens: list[tuple[str, str]], start: int, bracket: str) -> int:
    for position in range(start, len(tokens)):
        if tokens[position][1] == bracket:
            return position
    raise ValueError(f"no {bracket} after {tokens[start][1]}")


def _matchers(tokens: list[tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    words = [text for _, text in tokens if text != ","]
    if len(words) % 3:
        raise ValueError(f"matchers that are not label, operator, value: {' '.join(words)}")
    return tuple((words[at], words[at + 1], _text(words[at + 2])) for at in range(0, len(words), 3))


def _text(literal: str) -> str:
    """What a string literal says."""
    return re.sub(r"\\(.)", r"\1", literal[1:-1])
