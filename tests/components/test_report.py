from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from components.report import Report


class _Tags(HTMLParser):
    """Every tag with its attributes, and whether open tags were closed."""

    VOID = ("meta", "br", "hr", "path", "use", "rect")

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def _figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2, 3])
    return figure


def _full() -> str:
    report = Report("A <title>", "It & that.")
    report.section("Rows")
    report.text("<script>alert(1)</script>")
    report.table(["name", "rows", "share"], [["<b>", 12345, 0.123456], ["none", None, True]])
    report.figure(_figure(), 'a line that "rises"')
    report.html("<p>own <mark>markup</mark></p>")
    return report.render()


def test_data_is_escaped_and_own_markup_is_not():
    page = _full()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<title>A &lt;title&gt;</title>" in page
    assert "&lt;b&gt;" in page
    assert "<mark>markup</mark>" in page


def test_the_page_is_well_formed_and_needs_nothing_else():
    tags = _Tags()
    tags.feed(_full())
    assert tags.open == []
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "link", "img", "iframe", "object"}
    for name, attributes in tags.seen:
        for attribute in ("src", "href", "xlink:href"):
            assert (attributes.get(attribute) or "#").startswith("#"), (name, attributes)
    assert "url(http" not in _full()
    assert "@import" not in _full()


def test_tables_and_figures_can_be_read_aloud():
    page = _full()
    assert page.count('<th scope="col">') == 3
    assert page.count('<th scope="row">') == 2
    assert 'role="img" aria-label="a line that &#34;rises&#34;"' in page
    assert "12,345" in page
    assert "0.1235" in page
    assert "prefers-color-scheme: dark" in page


def test_the_same_report_gives_the_same_bytes():
    assert _full() == _full()


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has 1 cells, the headers"):
        Report("x").table(["a", "b"], [["only one"]])


def test_it_is_written_whole(tmp_path: Path):
    report = Report("Data")
    report.write(tmp_path / "report.html")
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert written == report.render()
    assert re.search(r"<h1>Data</h1>", written)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
