from __future__ import annotations

import gzip
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.prepare_data.readers import Row, fetched, find_sources, read_rows
from components.prepare_data.validate import Reason, Refused
from components.step_config import InputError

RECORDS = [{"question": "Why, oh why?", "answer": "Because\nof é."}, {"question": "And?", "answer": 'So "there".'}]


def read(path: Path | str) -> list[Row]:
    return [row for source in find_sources([str(path)]) for row in read_rows(source)]


def values(path: Path | str) -> list[object]:
    return [row.value for row in read(path)]


def reasons(path: Path) -> list[Reason | None]:
    return [row.value.reason if isinstance(row.value, Refused) else None for row in read(path)]


def test_json_lines(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in RECORDS) + "\n\n", encoding="utf-8")
    assert values(path) == RECORDS
    assert [(row.file, row.line) for row in read(path)] == [("rows.jsonl", 1), ("rows.jsonl", 2)]


def test_empty_lines_are_no_rows_and_lines_keep_their_numbers(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": 2}', encoding="utf-8")
    assert [row.line for row in read(path)] == [1, 4]


def test_an_unreadable_line_is_a_row_with_its_reason(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n{"a": \n{"a": "caf\xe9"}\n'
        + '{"a": "b"}'.encode("utf-16-le")
        + b'\n{"a": Infinity}\n'
        + b"[" * 100_000
        + b"\n"
    )
    assert reasons(path) == [
        None,
        Reason.BROKEN_JSON,
        Reason.WRONG_ENCODING,
        Reason.WRONG_ENCODING,
        Reason.BROKEN_JSON,
        Reason.BROKEN_JSON,
    ]
    rows = read(path)
    assert rows[0].had_bom and not rows[1].had_bom
    assert rows[2].raw == '{"a": "caf\\xe9"}'
    assert len(rows[5].raw) < 600


def test_raw_control_characters_in_json_are_left_to_normalisation(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "x\ty\x01"}\n')
    assert values(path) == [{"a": "x\ty\x01"}]


@pytest.mark.parametrize("wrapped", [RECORDS, {"data": RECORDS}, {"version": 1, "rows": RECORDS}])
def test_json(tmp_path: Path, wrapped: object):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(wrapped), encoding="utf-8")
    assert values(path) == RECORDS
    assert [row.line for row in read(path)] == [1, 2]


def test_one_conversation_in_a_json_file_is_one_row(tmp_path: Path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi?"}]}), encoding="utf-8")
    assert len(read(path)) == 1


def test_json_lines_in_a_json_file(tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    assert values(path) == RECORDS


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv(tmp_path: Path, delimiter: str):
    path = tmp_path / "rows.csv"
    path.write_text(
        delimiter.join(["question", "answer"])
        + f'\n"Why, oh why?"{delimiter}"Because\nof é."\nAnd?{delimiter}"So ""there""."\n',
        encoding="utf-8-sig",
    )
    assert values(path) == RECORDS
    assert [row.line for row in read(path)] == [2, 4]


def test_csv_rows_that_do_not_fit(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"question,answer\nOne?,Yes, and no.\nTwo?\nThree?,caf\xe9\nFour?,Good.\n")
    assert reasons(path) == [Reason.WRONG_COLUMNS, None, Reason.WRONG_ENCODING, None]
    assert values(path)[1] == {"question": "Two?", "answer": None}


def test_parquet(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}]} for n in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert values(path) == rows
    assert [row.line for row in read(path)] == list(range(1, 3001))


def test_plain_text_with_lines_of_dashes(tmp_path: Path):
    path = tmp_path / "talk.txt"
    path.write_text("User: A?\nAssistant: B.\n\nC.\n---\nUser: D?\nAssistant: E.\n", encoding="utf-8")
    assert values(path) == [{"text": "User: A?\nAssistant: B.\n\nC."}, {"text": "User: D?\nAssistant: E."}]
    assert [row.line for row in read(path)] == [1, 6]


def test_plain_text_without_dashes_begins_anew_with_each_user_after_an_empty_line(tmp_path: Path):
    path = tmp_path / "talk.txt"
    path.write_bytes(b"\nUser: A?\r\nAssistant: B.\r\n\r\nC.\r\n\r\nUser: D?\r\nAssistant: E.\r\n")
    assert values(path) == [{"text": "User: A?\nAssistant: B.\n\nC."}, {"text": "User: D?\nAssistant: E."}]
    assert [row.line for row in read(path)] == [2, 7]


def test_gzip(tmp_path: Path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert values(path) == [{"a": 1}]
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz cannot be read"):
        read(path)


def test_several_files_by_pattern_come_in_order(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text('{"file": "' + name + '"}\n', encoding="utf-8")
    assert values(tmp_path / "*.jsonl") == [{"file": "a.jsonl"}, {"file": "b.jsonl"}]


def test_a_source_is_named_as_the_run_file_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert find_sources(["rows.jsonl"])[0].name == "rows.jsonl"
    assert find_sources([str(tmp_path / "rows.jsonl")])[0].name == "rows.jsonl"


def test_a_url_of_an_in_memory_store():
    with fsspec.open("memory://bucket/rows.jsonl", "wb") as file:
        file.write(b'{"a": 1}\n')
    assert values("memory://bucket/rows.jsonl") == [{"a": 1}]


@pytest.fixture
def web(tmp_path: Path):
    """Address of a web server for `tmp_path`; it sends no ETag."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_url_without_an_etag_is_fetched_so_that_its_content_can_be_hashed(web: str, tmp_path: Path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    with fetched(find_sources([f"{web}/rows.jsonl.gz?download=true"])) as (source,):
        assert source.is_local
        assert Path(source.location).read_bytes() == (tmp_path / "rows.jsonl.gz").read_bytes()
        assert [row.value for row in read_rows(source)] == [{"a": 1}]
        assert source.name == f"{web}/rows.jsonl.gz?download=true"
    assert not Path(source.location).exists()


def test_a_url_with_an_etag_is_read_where_it_is(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def with_etag(handler: SimpleHTTPRequestHandler) -> None:
        handler.send_header("ETag", '"v1"')
        BaseHTTPRequestHandler.end_headers(handler)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "end_headers", with_etag)
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n')
    with fetched(find_sources([f"{web}/rows.jsonl"])) as (source,):
        assert (source.version, source.is_local) == ('"v1"', False)
        assert [row.value for row in read_rows(source)] == [{"a": 1}]


def test_a_missing_url(web: str):
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        read(f"{web}/nothing.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.xlsx", b"PK", r"no reader for files that end in '\.xlsx'; known are \.jsonl"),
        ("rows", b"x", "no reader for files that end in ''"),
        ("rows.json", b'{"a": [1, 2', r"rows\.json is not JSON: .*line 1 column"),
        ("rows.json", b'["caf\xe9"]', r"rows\.json is not UTF-8.*iconv"),
        ("rows.json", b"5", "holds a single int"),
        ("rows.jsonl", '{"a": 1}\n'.encode("utf-16"), "is UTF-16; convert it to UTF-8"),
        ("rows.csv", "a,b\n".encode("utf-16"), "is UTF-16"),
        ("rows.parquet", b"not parquet at all", r"rows\.parquet cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.jsonl does not exist; relative paths start at"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no file fits"):
        read(tmp_path / "*.jsonl")
    with pytest.raises(InputError, match="is a folder; name its files"):
        read(tmp_path)
    with pytest.raises(InputError, match="nosuch"):
        read("nosuch://bucket/rows.jsonl")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"")
    assert read(tmp_path / name) == []
