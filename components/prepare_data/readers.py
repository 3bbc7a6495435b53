"""Rows of data files: JSON Lines, JSON, CSV, Parquet and plain text, local or behind a URL, gzipped or not.

A row that cannot be read is a row, too: it comes out with its reason, so that everything that went in is
accounted for. A file that cannot be read at all is an error.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit

import fsspec
import fsspec.core
import pyarrow
import pyarrow.parquet

from components.buckets import BucketError, first_line
from components.prepare_data.validate import Reason, Refused
from components.step_config import InputError

# no .zip: an archive has members, and only its first would be read
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_BOM = b"\xef\xbb\xbf"
_SHOWN = 500
_LARGEST_CELL = 64 * 2**20
_DASHES = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)
_NEXT_SPEAKER = re.compile(r"\n[ \t]*\n(?=[ \t]*(?:system|user|human|question|q)[ \t]*:)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One row as it was read. `value` is the record, or why it could not be read."""

    file: str
    line: int
    """First line of the row in a text file; its number from 1 in JSON and Parquet."""

    value: Any | Refused
    raw: str
    """Beginning of the row for people to recognise it by."""

    had_bom: bool = False


@dataclass(frozen=True)
class Source:
    """A file to read."""

    name: str
    """As the run file names it; an absolute path is shortened to the file's name, which is the same everywhere."""

    location: str
    """What is opened: a path or a URL."""

    version: str = ""
    """What a remote store says about the content (an ETag); empty for a local file, which is hashed."""

    @property
    def is_local(self) -> bool:
        return _is_local(self.location)


def find_sources(patterns: list[str]) -> list[Source]:
    """The files that the run file's sources name; `*` may stand for several.

    Raises InputError when one does not exist, is a folder, or has an ending that no reader knows.
    """
    sources = [source for pattern in patterns for source in _expand(pattern)]
    for source in sources:
        _reader(source.location)
    return sources


@contextmanager
def fetched(sources: list[Source]) -> Iterator[list[Source]]:
    """The sources, with a temporary copy of each remote file of whose content the store says nothing.

    Such a copy can be hashed like a local file; a file with an ETag or checksum is read where it is.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-data-") as directory:
        local: list[Source] = []
        for number, source in enumerate(sources):
            if source.is_local or source.version:
                local.append(source)
                continue
            copy = Path(directory) / f"{number}-{PurePosixPath(urlsplit(source.location).path).name}"
            with _opened(source.location, compression=None) as remote, copy.open("wb") as file:
                shutil.copyfileobj(remote, file)
            local.append(Source(source.name, str(copy)))
        yield local


def read_rows(source: Source) -> Iterator[Row]:
    """Every row of a file, in order. Raises InputError when the file as a whole cannot be read."""
    with _opened(source.location) as file:
        try:
            yield from _reader(source.location)(source.name, file)
        except (OSError, EOFError, pyarrow.ArrowException, BucketError) as error:
            raise InputError(f"{source.name} cannot be read: {first_line(error)}") from error


def _is_local(location: str) -> bool:
    return "://" not in location and "::" not in location


def _expand(pattern: str) -> list[Source]:
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        if not ("*" in path or ("?" in path and _is_local(pattern))):
            paths = [path]
        elif not (paths := sorted(filesystem.glob(path))):
            raise InputError(f"no file fits {pattern}; relative paths start at {Path.cwd()}")
        return [_source(filesystem, str(one), pattern if paths == [path] else "") for one in paths]
    except FileNotFoundError as error:
        raise InputError(f"{pattern} does not exist; relative paths start at {Path.cwd()}") from error
    except (OSError, ImportError, ValueError, BucketError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{pattern} cannot be reached: {first_line(error)}") from error


def _source(filesystem: Any, path: str, given: str) -> Source:
    info = filesystem.info(path)
    location = given or filesystem.unstrip_protocol(path).removeprefix("file://").removeprefix("local://")
    if info["type"] == "directory":
        raise InputError(f"{location} is a folder; name its files, for example {location.rstrip('/')}/*.jsonl")
    if _is_local(location):
        name = location if not Path(location).is_absolute() else Path(location).name
        return Source(name, location)
    stamps = {key.lower(): str(value) for key, value in info.items() if value}
    named = ("etag", "e_tag", "md5hash", "crc32c", "content-md5", "sha256")
    version = next((stamps[key] for key in named if key in stamps), "")
    return Source(location, location, version)


@contextmanager
def _opened(location: str, compression: str | None = "infer") -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed when its name says that they are compressed."""
    try:
        file = cast(fsspec.core.OpenFile, fsspec.open(location, "rb", compression=compression)).open()
    except FileNotFoundError as error:
        raise InputError(f"{location} does not exist; relative paths start at {Path.cwd()}") from error
    except (OSError, ImportError, ValueError, BucketError) as error:
        raise InputError(f"{location} cannot be opened: {first_line(error)}") from error
    with file:
        yield file


def _reader(location: str) -> Callable[[str, IO[bytes]], Iterator[Row]]:
    path = PurePosixPath(location if _is_local(location) else urlsplit(location).path or location)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in _READERS:
        raise InputError(f"{location}: no reader for files that end in {suffix!r}; known are {', '.join(_READERS)}")
    return _READERS[suffix]


# --- one reader per format ---------------------------------------------------------------------------------------


def _read_jsonl(name: str, file: IO[bytes]) -> Iterator[Row]:
    """One JSON value per line; empty lines are no rows."""
    for number, line in enumerate(file, 1):
        if number == 1:
            _refuse_utf16(name, line)
        if not line.strip():
            continue
        content = line.removeprefix(_BOM)
        yield Row(name, number, _parse_line(content), _shown(content), had_bom=content != line)


def _parse_line(line: bytes) -> Any | Refused:
    if line.count(0) * 4 > len(line):
        return Refused(Reason.WRONG_ENCODING, "the line looks like UTF-16, not UTF-8")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Refused(Reason.WRONG_ENCODING, f"byte {line[error.start]:#04x} at position {error.start} is not UTF-8")
    try:
        # strict=False lets raw tabs and control characters in strings pass; normalisation counts them.
        return json.loads(text, strict=False, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Refused(Reason.BROKEN_JSON, str(error))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_json(name: str, file: IO[bytes]) -> Iterator[Row]:
    """A list of records, or an object that holds one; JSON Lines in a .json file are read as such."""
    content = file.read().removeprefix(_BOM)
    _refuse_utf16(name, content)
    if not content.strip():
        return
    try:
        value = json.loads(content.decode("utf-8"), strict=False)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from _read_jsonl(name, io.BytesIO(content))
            return
        raise InputError(
            f"{name} is not JSON: {error}; mend it, or give JSON Lines, which are read row by row"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: {error}; convert it, for example with iconv") from error
    if isinstance(value, dict):
        lists = [one for one in value.values() if isinstance(one, list)]
        value = lists[0] if len(lists) == 1 and len(value) > 0 and not _is_record(value) else [value]
    if not isinstance(value, list):
        raise InputError(f"{name} holds a single {type(value).__name__}; give a list of records")
    for number, record in enumerate(value, 1):
        yield Row(name, number, record, _shown(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")))


def _is_record(value: dict[str, Any]) -> bool:
    """Whether an object with a list in it is one conversation and not a wrapper around many."""
    return "messages" in value or "conversations" in value


def _read_csv(name: str, file: IO[bytes]) -> Iterator[Row]:
    """A header and one record per row; comma, semicolon, tab or bar, whichever the header has most of."""
    csv.field_size_limit(_LARGEST_CELL)
    head = file.read(4096)
    _refuse_utf16(name, head)
    header = head.removeprefix(_BOM).split(b"\n", 1)[0].decode("utf-8", "replace")
    if not header.strip():
        return
    delimiter = max(",;\t|", key=header.count)
    file.seek(0)
    # Bytes that are not UTF-8 pass as lone surrogates, so that only their rows are refused.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter=delimiter)
    names = next(rows)
    line = rows.line_num + 1
    try:
        for cells in rows:
            if cells:
                raw = delimiter.join(cells).encode("utf-8", "surrogateescape")
                yield Row(name, line, _csv_record(names, cells), _shown(raw))
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {line}: {error}") from error


def _csv_record(names: list[str], cells: list[str]) -> dict[str, str | None] | Refused:
    if len(cells) > len(names):
        return Refused(
            Reason.WRONG_COLUMNS, f"{len(cells)} cells, the header has {len(names)}; quote cells with commas"
        )
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return Refused(Reason.WRONG_ENCODING, "the row is not UTF-8")
    padded: list[str | None] = [*cells, *[None] * (len(names) - len(cells))]
    return dict(zip(names, padded, strict=True))


def _read_parquet(name: str, file: IO[bytes]) -> Iterator[Row]:
    number = 0
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
        for record in batch.to_pylist():
            number += 1
            yield Row(name, number, record, _shown(str(record).encode("utf-8", "replace")))


def _read_text(name: str, file: IO[bytes]) -> Iterator[Row]:
    """Conversations with marked speakers (`User: …`), apart by a line of dashes; without one in the file, a
    conversation begins where an empty line is followed by a user's or system mark."""
    content = file.read().removeprefix(_BOM)
    _refuse_utf16(name, content)
    # Surrogates keep the positions of bytes that are not UTF-8; normalisation refuses the rows they are in.
    text = content.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    boundary = _DASHES if _DASHES.search(text) else _NEXT_SPEAKER
    start = 0
    for end, following in [*((m.start(), m.end()) for m in boundary.finditer(text)), (len(text), len(text))]:
        block = text[start:end]
        if block.strip():
            line = text.count("\n", 0, start + len(block) - len(block.lstrip())) + 1
            yield Row(name, line, {"text": block.strip()}, _shown(block.strip().encode("utf-8", "surrogateescape")))
        start = following


def _refuse_utf16(name: str, content: bytes) -> None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name} is UTF-16; convert it to UTF-8, for example: iconv -f UTF-16 -t UTF-8")


def _shown(content: bytes) -> str:
    """Beginning of a row with what is not UTF-8 as \\x escapes, so that it can be written to JSON."""
    text = content[: 4 * _SHOWN].decode("utf-8", "backslashreplace").strip("\r\n")
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"


_READERS: dict[str, Callable[[str, IO[bytes]], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".md": _read_text,
}
