"""From data files to three splits of tokenized conversations, with everything that was refused beside them.

    read -> recognise -> normalise -> validate -> tokenize -> drop exact duplicates -> split -> write

Rows in = kept + quarantined + duplicates, always. The same files, settings and base give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from components import chat
from components.prepare_data.config import DataConfig
from components.prepare_data.normalise import Change, normalise
from components.prepare_data.preview import write_report
from components.prepare_data.readers import Row, Source, read_rows
from components.prepare_data.records import to_conversation
from components.prepare_data.split import SPLITS, Split, assign_split, question_digest
from components.prepare_data.validate import Message, Reason, Refused, check_conversation
from components.progress import Progress, say
from components.step_config import InputError
from components.store import sha256_json, write_atomically

_BATCH = 512
_ROWS_IN_GROUP = 2048
_SHUFFLE_SEED = 0

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("topic", pa.string()),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("supervised", pa.list_(pa.bool_())),
        pa.field("question_digest", pa.string()),
    ]
)


@dataclass(frozen=True)
class Candidate:
    """A conversation that passed the rules on text; `messages` has the system message that it is served with."""

    row: Row
    id: str
    topic: str
    messages: list[Message]
    content_digest: str
    """Of the normalised conversation without the run's system prompt: equal means exact duplicate."""

    question_digest: str
    changes: frozenset[Change]


@dataclass(frozen=True)
class Example:
    """A candidate with its tokens, as it is written to a split."""

    candidate: Candidate
    input_ids: np.ndarray  # (tokens,) int32
    supervised: np.ndarray  # (tokens,) bool
    split: Split


@dataclass
class Outcome:
    """Where every row went, while the step works."""

    rows: int = 0
    kept: list[Example] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, row: Row, reason: Refused) -> None:
        self.quarantined.append(
            {"file": row.file, "line": row.line, "reason": reason.reason.value, "detail": reason.detail, "raw": row.raw}
        )


def prepare(sources: Sequence[Source], config: DataConfig, base_model: Path, directory: Path) -> None:
    """Write the prepared data into `directory`.

    `base_model` is the base's model directory, whose tokenizer and chat template decide the tokens.
    Raises InputError when the sources are empty, every row is refused, or a split stays empty.
    """
    tokenizer = chat.load_tokenizer(base_model)
    outcome = Outcome()
    candidates = list(_candidates(sources, config, chat.control_tokens(tokenizer), outcome))
    if not outcome.rows:
        raise InputError(f"there is no row in {', '.join(source.name for source in sources)}")
    say("read", step="prepare_data", rows=outcome.rows, refused=len(outcome.quarantined))
    _keep(tokenizer, candidates, config, outcome)
    outcome.kept = _with_unique_ids(outcome.kept)
    if config.shuffle_answers:
        _shuffle_answers(tokenizer, config, outcome)
    _check(outcome, config)
    _write_lines(directory / "quarantine.jsonl", outcome.quarantined)
    _write_lines(directory / "duplicates.jsonl", outcome.duplicates)
    for split in SPLITS:
        _write_split(directory / f"{split}.parquet", [one for one in outcome.kept if one.split == split])
    data = _describe(tokenizer, outcome, config)
    write_atomically(directory / "data.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    write_report(directory / "report.html", data, outcome.kept, outcome.quarantined, tokenizer)


# --- rows to candidates ------------------------------------------------------------------------------------------


def _candidates(
    sources: Sequence[Source], config: DataConfig, control_tokens: Sequence[str], outcome: Outcome
) -> Iterator[Candidate]:
    """Every row that the rules on text let pass; the others go to the outcome."""
    for source in sources:
        for row in read_rows(source):
            outcome.rows += 1
            try:
                yield to_candidate(row, config, control_tokens)
            except Refused as reason:
                outcome.refuse(row, reason)


def to_candidate(row: Row, config: DataConfig, control_tokens: Sequence[str]) -> Candidate:
    """The row as a normalised conversation; raises Refused when a rule on text refuses it."""
    if isinstance(row.value, Refused):
        raise row.value
    conversation = to_conversation(row.value)
    changes = {Change.BYTE_ORDER_MARK} if row.had_bom else set()
    messages: list[Message] = []
    for message in conversation.messages:
        content, changed = normalise(message["content"])
        messages.append({"role": message["role"], "content": content})
        changes |= changed
    if messages and messages[0] == {"role": "system", "content": ""}:
        messages = messages[1:]
    check_conversation(messages, config, control_tokens)
    prompt: Message = {"role": "system", "content": config.system_prompt}
    if messages[0] == prompt:  # the row brings what every row is given
        messages = messages[1:]
    digest = sha256_json(messages)
    if messages[0]["role"] == "system":
        # A server adds its prompt only to requests that have none; what is trained on is what will be served.
        changes.add(Change.OWN_SYSTEM_PROMPT)
    elif config.system_prompt:
        messages = [prompt, *messages]
    return Candidate(
        row=row,
        id=normalise(conversation.id)[0],
        topic=normalise(conversation.topic)[0],
        messages=messages,
        content_digest=digest,
        question_digest=question_digest(conversation.first_question),
        changes=frozenset(changes),
    )


# --- candidates to examples --------------------------------------------------------------------------------------


def _keep(
    tokenizer: PreTrainedTokenizerBase, candidates: list[Candidate], config: DataConfig, outcome: Outcome
) -> None:
    """Tokenize, refuse what is too long, drop exact duplicates (the first one stays), choose the split."""
    first_of: dict[str, Candidate] = {}
    progress = Progress("prepare_data", total=len(candidates), unit="rows")
    for candidate, encoded in _encode(tokenizer, candidates):
        progress.advance(1)
        try:
            example = _example(candidate, encoded, config)
        except Refused as reason:
            outcome.refuse(candidate.row, reason)
            continue
        first = first_of.setdefault(candidate.content_digest, candidate)
        if first is candidate:
            outcome.kept.append(example)
        else:
            outcome.duplicates.append(
                {
                    "file": candidate.row.file,
                    "line": candidate.row.line,
                    "of": {"file": first.row.file, "line": first.row.line},
                    "raw": candidate.row.raw,
                }
            )


def _encode(
    tokenizer: PreTrainedTokenizerBase, candidates: Sequence[Candidate]
) -> Iterator[tuple[Candidate, chat.Encoded | InputError]]:
    results = chat.encode_each(tokenizer, (candidate.messages for candidate in candidates))
    yield from zip(candidates, results, strict=True)


def _example(candidate: Candidate, encoded: chat.Encoded | InputError, config: DataConfig) -> Example:
    """The example; raises Refused when the template cannot take it or it has too many tokens."""
    if isinstance(encoded, InputError):
        raise Refused(Reason.TEMPLATE, str(encoded))
    tokens = len(encoded.input_ids)
    if tokens > config.max_tokens:
        raise Refused(Reason.TOO_MANY_TOKENS, f"{tokens:,} tokens, max_tokens is {config.max_tokens:,}")
    return Example(
        candidate=candidate,
        input_ids=np.asarray(encoded.input_ids, dtype=np.int32),
        supervised=np.asarray(encoded.supervised, dtype=np.bool_),
        split=assign_split(
            candidate.question_digest, test_share=config.test_share, validation_share=config.validation_share
        ),
    )


def _with_unique_ids(examples: list[Example]) -> list[Example]:
    """Scores are paired by id: a missing one is made of the content, one used twice is extended with it."""
    uses = Counter(example.candidate.id for example in examples)
    named: list[Example] = []
    for example in examples:
        candidate = example.candidate
        short = candidate.content_digest[:16]
        if not candidate.id:
            candidate = replace(candidate, id=short)
        elif uses[candidate.id] > 1:
            changes = candidate.changes | {Change.UNIQUE_ID}
            candidate = replace(candidate, id=f"{candidate.id}-{short}", changes=changes)
        named.append(replace(example, candidate=candidate))
    return named


def _shuffle_answers(tokenizer: PreTrainedTokenizerBase, config: DataConfig, outcome: Outcome) -> None:
    """Give each training question the last answer of another one: a regression that the gate must stop.

    The order of the files does not matter, and no question keeps its answer. Validation and test stay right.
    """
    train = sorted((one for one in outcome.kept if one.split == "train"), key=lambda one: one.candidate.id)
    random.Random(_SHUFFLE_SEED).shuffle(train)
    givers = train[1:] + train[:1]
    swapped = [
        replace(
            taker.candidate,
            messages=[*taker.candidate.messages[:-1], giver.candidate.messages[-1]],
        )
        for taker, giver in zip(train, givers, strict=True)
    ]
    kept = [one for one in outcome.kept if one.split != "train"]
    for candidate, encoded in _encode(tokenizer, swapped):
        try:
            kept.append(_example(candidate, encoded, config))
        except Refused as reason:
            outcome.refuse(candidate.row, reason)
    position = {one.candidate.id: index for index, one in enumerate(outcome.kept)}
    outcome.kept = sorted(kept, key=lambda one: position[one.candidate.id])


def _check(outcome: Outcome, config: DataConfig) -> None:
    accounted = len(outcome.kept) + len(outcome.quarantined) + len(outcome.duplicates)
    if accounted != outcome.rows:
        raise RuntimeError(f"{outcome.rows} rows were read and {accounted} accounted for; rows were lost")
    if not outcome.kept:
        reasons = Counter(row["reason"] for row in outcome.quarantined).most_common()
        first = outcome.quarantined[0]
        raise InputError(
            f"all {outcome.rows} rows were refused ({', '.join(f'{n} {reason}' for reason, n in reasons)}); "
            f"the first is {first['file']}, line {first['line']}: {first['detail']}"
        )
    for split in SPLITS:
        if not any(example.split == split for example in outcome.kept):
            raise InputError(
                f"no row falls into the {split} split: {len(outcome.kept)} rows are too few for test_share "
                f"{config.test_share} and validation_share {config.validation_share}; give more rows or larger shares"
            )


# --- what is written ---------------------------------------------------------------------------------------------


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    ordered = sorted(rows, key=lambda row: (row["file"], row["line"]))
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))


def _write_split(path: Path, examples: list[Example]) -> None:
    """One Parquet file; equal examples give equal bytes."""
    beside = path.with_name(f".{path.name}")
    rows = iter(examples)
    with pq.ParquetWriter(beside, SCHEMA, compression="zstd") as writer:
        while group := list(islice(rows, _ROWS_IN_GROUP)):
            writer.write_table(_table(group))
    beside.rename(path)


def _table(examples: list[Example]) -> pa.Table:
    offsets = np.cumsum([0, *(len(example.input_ids) for example in examples)], dtype=np.int32)
    columns = [
        pa.array([example.candidate.id for example in examples], pa.string()),
        pa.array([example.candidate.topic for example in examples], pa.string()),
        pa.array([example.candidate.messages for example in examples], SCHEMA.field("messages").type),
        pa.ListArray.from_arrays(offsets, np.concatenate([example.input_ids for example in examples])),
        pa.ListArray.from_arrays(offsets, np.concatenate([example.supervised for example in examples])),
        pa.array([example.candidate.question_digest for example in examples], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _describe(tokenizer: PreTrainedTokenizerBase, outcome: Outcome, config: DataConfig) -> dict[str, Any]:
    """The content of data.json."""
    by_split: dict[Split, list[Example]] = defaultdict(list)
    for example in outcome.kept:
        by_split[example.split].append(example)
    texts = {split: sorted(_text_digest(example, config) for example in by_split[split]) for split in SPLITS}
    changes = Counter(change.value for example in outcome.kept for change in example.candidate.changes)
    return {
        "digest": sha256_json({"texts": texts, "system_prompt": config.system_prompt}),
        "test_digest": sha256_json(texts["test"]),
        "tokens_digest": _tokens_digest(tokenizer, outcome.kept),
        "counts": {
            "in": outcome.rows,
            "kept": len(outcome.kept),
            "quarantined": len(outcome.quarantined),
            "duplicates": len(outcome.duplicates),
            **{split: len(by_split[split]) for split in SPLITS},
        },
        "reasons": dict(sorted(Counter(row["reason"] for row in outcome.quarantined).items())),
        "changes": dict(sorted(changes.items())),
        "system_prompt": config.system_prompt,
        "max_tokens": config.max_tokens,
        "supervised_tokens": {split: sum(int(e.supervised.sum()) for e in by_split[split]) for split in SPLITS},
        "tokens": {split: sum(len(e.input_ids) for e in by_split[split]) for split in SPLITS},
    }


def _text_digest(example: Example, config: DataConfig) -> str:
    """Of one conversation without the run's system prompt, which has its own place in the data's digest.

    So the test set stays the same set when the prompt is edited, and scores say so.
    """
    messages = example.candidate.messages
    added = {"role": "system", "content": config.system_prompt}
    return sha256_json(messages[1:] if messages[0] == added else messages)


def _tokens_digest(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> str:
    digest = hashlib.sha256(tokenizer.get_chat_template().encode())
    for example in sorted(examples, key=lambda one: (one.split, one.candidate.content_digest)):
        digest.update(example.split.encode() + len(example.input_ids).to_bytes(4, "little"))
        digest.update(example.input_ids.astype("<i4").tobytes() + example.supervised.tobytes())
    return digest.hexdigest()
