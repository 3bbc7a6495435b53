"""One HTML page that says what a step found: self-contained, so that it opens anywhere.

Kubeflow shows it in a sandboxed frame without scripts and without access to other files: styles and figures
are inside the page. All text is escaped; only `html` takes markup, from our own code.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from components.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
:root { --ink: #1b1f24; --paper: #ffffff; --line: #d5dae0; --wash: #f4f6f8; --mark: #ccebd3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --paper: #14171b; --line: #363d46; --wash: #1e2329; --mark: #1f4d2e; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.summary { font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem; text-align: left; vertical-align: top;
         white-space: pre-wrap; overflow-wrap: break-word; }
th { background: var(--wash); } th[scope=row] { background: none; font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; padding: .5rem; background: #ffffff; border: 1px solid var(--line); }
figcaption { color: #5b6470; } figure svg { max-width: 100%; height: auto; display: block; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--wash); padding: .8rem; font-size: .85rem;
      border: 1px solid var(--line); }
mark { background: var(--mark); color: inherit; }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% if summary %}<p class="summary">{{ summary }}</p>{% endif %}
{% for part in parts %}{{ part }}
{% endfor %}</main>
</body>
</html>
"""

_TABLE = """<div class="wide" tabindex="0" role="region" aria-label="{{ label }}"><table>
<thead><tr>{% for header in headers %}<th scope="col">{{ header }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}{% if loop.first %}<th scope="row">{{ cell | shown }}</th>\
{% else %}<td{% if cell is number and cell is not boolean %} class="number"{% endif %}>{{ cell | shown }}</td>\
{% endif %}{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>"""

Cell = str | int | float | bool | None


def _shown(cell: Cell) -> str:
    """Numbers as people read them: 12,345 and 0.1235; nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.4g}" if isinstance(cell, float) else str(cell)


_JINJA = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
_JINJA.filters["shown"] = _shown


class Report:
    """A page that grows from top to bottom.

    >>> report = Report("Data", "480 rows were kept.")
    >>> report.section("Refused")
    >>> report.table(["reason", "rows"], [["broken_json", 3]])
    >>> report.write(directory / "report.html")
    """

    def __init__(self, title: str, summary: str = ""):
        self._title, self._summary = title, summary
        self._parts: list[Markup] = []
        self._heading = title

    def section(self, heading: str) -> None:
        """Begin a section; the tables that follow are labelled with its heading."""
        self._heading = heading
        self._parts.append(Markup("<h2>{}</h2>").format(heading))

    def text(self, paragraph: str) -> None:
        """A paragraph of plain text."""
        self._parts.append(Markup("<p>{}</p>").format(paragraph))

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """A table whose first column names each row. Raises ValueError when a row does not fit the headers."""
        listed = [list(row) for row in rows]
        for row in listed:
            if len(row) != len(headers):
                raise ValueError(f"row {row} has {len(row)} cells, the headers {list(headers)} have {len(headers)}")
        self._parts.append(Markup(_JINJA.from_string(_TABLE).render(label=self._heading, headers=headers, rows=listed)))

    def figure(self, figure: Figure, alt: str) -> None:
        """A matplotlib figure as inline SVG; `alt` says in words what it shows."""
        drawn = io.StringIO()
        # Without a date and with fixed ids, the same figure gives the same bytes.
        with _deterministic_svg():
            figure.savefig(drawn, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        svg = drawn.getvalue()
        svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(alt)}" ', 1)
        frame = Markup("<figure>{}<figcaption>{}</figcaption></figure>")
        self._parts.append(frame.format(Markup(svg), alt))

    def html(self, markup: str) -> None:
        """Markup that is safe already; what came from data must have been escaped."""
        self._parts.append(Markup(markup))

    def render(self) -> str:
        """The whole page."""
        return _JINJA.from_string(_PAGE).render(title=self._title, summary=self._summary, parts=self._parts)

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        write_atomically(path, self.render())


def _deterministic_svg() -> AbstractContextManager[None]:
    import matplotlib  # 0.5 s, and only a page with a figure needs it

    return matplotlib.rc_context({"svg.hashsalt": "slipway", "svg.fonttype": "path"})
