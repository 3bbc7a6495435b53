"""Which documents share a forward pass, and the tensors of one pass.

A pack is a list of documents that lie end to end in one row. Axes: T tokens of a pack, D documents in it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import torch

IGNORED = -100
"""Label of a token that the loss does not count (torch's ignore_index)."""


@dataclass(frozen=True)
class Document:
    """One tokenized conversation; `supervised[i]` says whether the loss counts token i."""

    input_ids: list[int]
    supervised: list[bool]

    def __len__(self) -> int:
        return len(self.input_ids)


def plan_packs(
    lengths: Sequence[int], *, pack_tokens: int, epochs: int, seed: int, max_tokens: int = 0
) -> list[list[int]]:
    """All packs of a training run, in the order in which they are trained; each pack lists document indices.

    Best-fit decreasing within each epoch, packs then shuffled: a pure function of its arguments, so that a
    position in the run is a position in this list. A document longer than `pack_tokens` has a pack of its own.
    Ends before the pack that would exceed `max_tokens` tokens in all (0: no limit), but never before the first.
    """
    packs: list[list[int]] = []
    tokens = 0
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        shuffled = torch.randperm(len(lengths), generator=generator).tolist()
        epoch_packs = _best_fit_decreasing(shuffled, lengths, pack_tokens)
        for index in torch.randperm(len(epoch_packs), generator=generator).tolist():
            pack = epoch_packs[index]
            tokens += sum(lengths[document] for document in pack)
            if max_tokens and packs and tokens > max_tokens:
                return packs
            packs.append(pack)
    return packs


def _best_fit_decreasing(order: Sequence[int], lengths: Sequence[int], pack_tokens: int) -> list[list[int]]:
    """Put each document, longest first, where it leaves the least room; ties keep `order`."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    for document in sorted(order, key=lambda index: -lengths[index]):
        fits = bisect.bisect_left(room, (lengths[document], -1))
        if fits == len(room):
            packs.append([document])
            left, pack = pack_tokens - lengths[document], len(packs) - 1
        else:
            left, pack = room.pop(fits)
            packs[pack].append(document)
            left -= lengths[document]
        if left > 0:
            bisect.insort(room, (left, pack))
    return packs


def collate(documents: Sequence[Document]) -> dict[str, torch.Tensor]:
    """One row of documents end to end.

    `input_ids`, `position_ids`, `labels`: (1, T); positions restart and the first label is ignored in each
    document, so that nothing is predicted across a border. `cu_seq_lens_q`: (D + 1,) int32, where documents begin.
    """
    input_ids = [token for document in documents for token in document.input_ids]
    labels: list[int] = []
    positions: list[int] = []
    for document in documents:
        pairs = zip(document.input_ids[1:], document.supervised[1:], strict=True)
        labels += [IGNORED, *(token if counted else IGNORED for token, counted in pairs)]
        positions += range(len(document))
    borders = torch.tensor([0, *(len(document) for document in documents)]).cumsum(0)
    return {
        "input_ids": torch.tensor([input_ids]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
        "cu_seq_lens_q": borders.to(torch.int32),
    }


class PackedDataset(torch.utils.data.Dataset):
    """Item i is the i-th pack of the plan, as the list of its documents."""

    def __init__(self, documents: Sequence[Document], packs: Sequence[Sequence[int]]):
        self.documents = documents
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[Document]:
        return [self.documents[document] for document in self.packs[index]]

    def tokens(self, index: int) -> int:
        """Real tokens of the i-th pack; there is no padding."""
        return sum(len(self.documents[document]) for document in self.packs[index])
