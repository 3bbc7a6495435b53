"""The plan of a run is a pure function that loses no document, and a pack's labels never cross a border."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from components.finetune.batches import IGNORED, Document, PackedDataset, collate, plan_packs

LENGTHS = random.Random(0).choices(range(5, 101), k=60)


def plan(**changes):
    return plan_packs(**{"lengths": LENGTHS, "pack_tokens": 128, "epochs": 3, "seed": 7, **changes})


def tokens(pack):
    return sum(LENGTHS[document] for document in pack)


def test_the_same_arguments_give_the_same_plan_whatever_random_state_the_process_has():
    torch.manual_seed(1)
    first = plan()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert plan() == first
    assert torch.equal(torch.get_rng_state(), before), "the plan drew from the process's own generator"


def test_another_seed_gives_another_plan():
    assert plan(seed=8) != plan()


def test_every_epoch_has_every_document_exactly_once():
    seen = [document for pack in plan() for document in pack]
    epochs = [seen[start : start + len(LENGTHS)] for start in range(0, len(seen), len(LENGTHS))]
    assert len(epochs) == 3
    for epoch in epochs:
        assert Counter(epoch) == Counter(range(len(LENGTHS)))


def test_no_pack_holds_documents_of_two_epochs():
    assert all(len(set(pack)) == len(pack) for pack in plan())


def test_epochs_differ_in_order_and_in_company():
    packs = plan()
    per_epoch = len(packs) // 3
    first, second = packs[:per_epoch], packs[per_epoch : 2 * per_epoch]
    assert first != second
    assert {frozenset(pack) for pack in first} != {frozenset(pack) for pack in second}


def test_packs_are_not_trained_from_long_to_short():
    longest = [max(LENGTHS[document] for document in pack) for pack in plan(epochs=1)]
    assert longest != sorted(longest, reverse=True)


def test_packs_hold_no_more_than_their_size():
    assert max(tokens(pack) for pack in plan()) <= 128


def test_a_document_that_is_longer_than_a_pack_has_one_of_its_own():
    packs = plan_packs([40, 7, 200, 8], pack_tokens=50, epochs=1, seed=0)
    assert [2] in packs
    assert sorted(document for pack in packs for document in pack) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("lengths", "fewest"), [([6, 5, 4, 3, 2], 2), ([6, 5, 5, 4, 7, 3], 3), ([9, 8, 2, 1], 2), ([5] * 8, 4)]
)
def test_packs_are_filled_to_the_brim_where_that_is_possible(lengths, fewest):
    assert len(plan_packs(lengths, pack_tokens=10, epochs=1, seed=0)) == fewest


def test_little_room_is_left_over():
    lengths = random.Random(1).choices(range(20, 401), k=500)
    packs = plan_packs(lengths, pack_tokens=1024, epochs=1, seed=0)
    assert sum(lengths) / (len(packs) * 1024) > 0.98


def test_max_tokens_cuts_the_same_plan_before_the_pack_that_would_exceed_it():
    whole = plan()
    for limit in (200, 1_000, 5_000):
        packs = plan(max_tokens=limit)
        assert packs == whole[: len(packs)]
        assert sum(map(tokens, packs)) <= limit < sum(map(tokens, whole[: len(packs) + 1]))


def test_max_tokens_beyond_the_plan_changes_nothing():
    assert plan(max_tokens=10**9) == plan()


def test_max_tokens_leaves_at_least_one_pack():
    assert plan(max_tokens=1) == plan()[:1]


def test_a_pack_has_its_documents_end_to_end_with_labels_inside_each_only():
    first = Document([10, 11, 12], [False, True, True])
    second = Document([20, 21], [True, True])
    batch = collate([first, second])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[10, 11, 12, 20, 21]],
        "position_ids": [[0, 1, 2, 0, 1]],
        # 20 is supervised, but nothing of its own document comes before it
        "labels": [[IGNORED, 11, 12, IGNORED, 21]],
        "cu_seq_lens_q": [0, 3, 5],
    }
    assert batch["cu_seq_lens_q"].dtype == torch.int32


def test_a_mask_that_does_not_fit_its_tokens_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        collate([Document([1, 2, 3], [True, True])])


def test_the_data_set_is_the_plan():
    documents = [Document([number] * length, [True] * length) for number, length in enumerate(LENGTHS)]
    packs = plan(epochs=1)
    dataset = PackedDataset(documents, packs)
    assert len(dataset) == len(packs)
    assert [document.input_ids[0] for document in dataset[3]] == packs[3]
    assert dataset.tokens(3) == tokens(packs[3])
