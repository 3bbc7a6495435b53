"""The data report: what came in, what was refused and why, how long it is, and what is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from transformers import PreTrainedTokenizerBase

from components.prepare_data import normalise, validate
from components.prepare_data.split import SPLITS
from components.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.prepare_data.prepare import Example

_PREVIEWS = 4
_TOPICS = 40


def write_report(
    path: Path,
    data: dict[str, Any],
    kept: Sequence[Example],
    quarantined: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write the page. `data` is what data.json says."""
    counts = data["counts"]
    report = Report(
        "Data",
        f"{counts['in']:,} rows came in: {counts['kept']:,} were kept, {counts['quarantined']:,} quarantined, "
        f"{counts['duplicates']:,} dropped as exact duplicates.",
    )
    report.section("Splits")
    report.text("The first question of a conversation decides its split, so no row moves when others are added.")
    report.table(
        ["split", "rows", "tokens", "supervised tokens"],
        [[split, counts[split], data["tokens"][split], data["supervised_tokens"][split]] for split in SPLITS],
    )
    _refusals(report, quarantined)
    _changes(report, data["changes"])
    _lengths(report, kept, data["max_tokens"])
    _topics(report, kept)
    _preview(report, kept, tokenizer)
    report.section("Digests")
    report.table(["of", "sha256"], [[name, data[name]] for name in ("digest", "test_digest", "tokens_digest")])
    report.write(path)


def _refusals(report: Report, quarantined: Sequence[dict[str, Any]]) -> None:
    report.section("Quarantined")
    if not quarantined:
        report.text("No row was refused.")
        return
    report.text("Every refused row stands in quarantine.jsonl with its file, line and reason.")
    first = {row["reason"]: row for row in reversed(quarantined)}
    rows = [
        [
            reason,
            number,
            validate.MEANING[validate.Reason(reason)],
            f"{row['file']}, line {row['line']}: {row['detail']}",
        ]
        for reason, number in Counter(row["reason"] for row in quarantined).most_common()
        for row in [first[reason]]
    ]
    report.table(["reason", "rows", "meaning", "first"], rows)


def _changes(report: Report, changes: dict[str, int]) -> None:
    report.section("Changed")
    if not changes:
        report.text("No kept row was changed.")
        return
    rows = [[name, number, normalise.MEANING[normalise.Change(name)]] for name, number in changes.items()]
    report.table(["change", "kept rows", "meaning"], rows)


def _lengths(report: Report, kept: Sequence[Example], max_tokens: int) -> None:
    lengths = sorted(len(example.input_ids) for example in kept)
    supervised = sorted(int(example.supervised.sum()) for example in kept)
    report.section("Lengths")
    report.figure(
        _histogram(lengths, supervised),
        f"Histogram of tokens per conversation, from {lengths[0]} to {lengths[-1]}, the middle one {_at(lengths, 0.5)}",
    )
    report.table(
        ["tokens", "shortest", "median", "95th of 100", "longest", "allowed"],
        [
            ["conversation", lengths[0], _at(lengths, 0.5), _at(lengths, 0.95), lengths[-1], max_tokens],
            ["supervised", supervised[0], _at(supervised, 0.5), _at(supervised, 0.95), supervised[-1], None],
        ],
    )


def _at(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _histogram(lengths: Sequence[int], supervised: Sequence[int]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.8))
    axes = figure.subplots()
    edges = [lengths[-1] * step / 30 for step in range(31)]
    axes.hist(lengths, bins=edges, label="conversation", color="#4c78a8")
    axes.hist(supervised, bins=edges, label="supervised", color="#54a24b", alpha=0.75)
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _topics(report: Report, kept: Sequence[Example]) -> None:
    topics = Counter(example.candidate.topic for example in kept if example.candidate.topic)
    if not topics:
        return
    report.section("Topics")
    by_split = Counter((example.candidate.topic, example.split) for example in kept)
    shown = sorted(topics, key=lambda topic: (-topics[topic], topic))[:_TOPICS]
    report.table(["topic", *SPLITS], [[topic, *(by_split[topic, split] for split in SPLITS)] for topic in shown])
    if len(topics) > _TOPICS:
        report.text(f"{len(topics) - _TOPICS} smaller topics are not shown.")


def _preview(report: Report, kept: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
    """A few training conversations, token for token; conversations with several turns come first."""
    report.section("What is trained on")
    report.html(Markup("<p>The model reads everything and learns to say what is <mark>marked</mark>.</p>"))
    train = sorted(
        (example for example in kept if example.split == "train"),
        key=lambda example: (-min(len(example.candidate.messages), 5), example.candidate.content_digest),
    )
    for example in train[: _PREVIEWS // 2] + train[-(_PREVIEWS // 2) :] if len(train) > _PREVIEWS else train:
        report.text(example.candidate.id)
        report.html(
            Markup("<pre>{}</pre>").format(marked(example.input_ids.tolist(), example.supervised.tolist(), tokenizer))
        )


def marked(input_ids: Sequence[int], supervised: Sequence[bool], tokenizer: PreTrainedTokenizerBase) -> Markup:
    """The decoded tokens with the supervised ones inside <mark>."""
    parts: list[Markup] = []
    for is_supervised, run in groupby(zip(input_ids, supervised, strict=True), key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False)
        parts.append(Markup("<mark>{}</mark>" if is_supervised else "{}").format(text))
    return Markup("").join(parts)
