"""Attention inside each document equals dense attention under a block-diagonal causal mask."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch

from components.finetune.attention import document_attention
from components.step_config import InputError

LENGTHS = (5, 1, 9, 3)
BORDERS = [0, *accumulate(LENGTHS)]


def dense(query, key, value, *, scaling, window=None):
    """(1, H, T, d) -> (1, T, H, d), with softmax and mask written out."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    position = torch.arange(sum(LENGTHS))
    back = position[:, None] - position
    seen = (document[:, None] == document) & (back >= 0)
    if window:
        seen &= back < window
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~seen, -math.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def tensors(heads_kv=4):
    generator = torch.Generator().manual_seed(0)
    heads = (4, heads_kv, heads_kv)
    return [torch.randn(1, h, sum(LENGTHS), 8, generator=generator, requires_grad=True) for h in heads]


@pytest.mark.parametrize("heads_kv", [4, 2, 1])
@pytest.mark.parametrize("scaling", [0.5, 8**-0.5])
@pytest.mark.parametrize("window", [None, 4, 100])
def test_output_and_gradients_are_those_of_dense_attention(heads_kv, scaling, window):
    mine, theirs = tensors(heads_kv), tensors(heads_kv)
    module = torch.nn.Identity()
    output, weights = document_attention(
        module, *mine, None, document_borders=BORDERS, scaling=scaling, sliding_window=window
    )
    expected = dense(*theirs, scaling=scaling, window=window)
    assert weights is None
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (output * direction).sum().backward()
    (expected * direction).sum().backward()
    for tensor, reference in zip(mine, theirs, strict=True):
        torch.testing.assert_close(tensor.grad, reference.grad, atol=1e-5, rtol=1e-5)


def test_dropout_happens_while_training_only():
    module = torch.nn.Identity()
    calm, _ = document_attention(module.eval(), *tensors(), None, document_borders=BORDERS, dropout=0.0)
    also_calm, _ = document_attention(module.eval(), *tensors(), None, document_borders=BORDERS, dropout=0.5)
    torch.manual_seed(0)
    dropped, _ = document_attention(module.train(), *tensors(), None, document_borders=BORDERS, dropout=0.5)
    assert torch.equal(calm, also_calm)
    assert not torch.allclose(calm, dropped)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_attention_that_is_not_computed_is_refused(name):
    with pytest.raises(InputError, match=name):
        document_attention(torch.nn.Identity(), *tensors(), None, document_borders=BORDERS, **{name: torch.ones(4)})
