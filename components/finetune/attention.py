"""Causal attention inside each document of a pack, registered under a name that a model's config can carry.

A dense block-diagonal mask costs O(T²) for the whole pack; one call per document costs the sum of their squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from components.step_config import InputError

NAME = "slipway_documents"

_NOT_COMPUTED = ("softcap", "s_aux", "position_bias")
"""What some models add to plain softmax attention (Gemma 2, gpt-oss, T5); without it another model would be trained."""


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    document_borders: Sequence[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Query (1, H, T, d), key and value (1, H_kv, T, d) -> (1, T, H, d).

    `document_borders`: where the documents begin, and T; numbers, since for a tensor's the GPU would have to be waited
    for in every layer. `sliding_window`: how many tokens back a token sees, itself included. Raises InputError when
    the model asks for an attention that is not computed here.
    """
    for name in _NOT_COMPUTED:
        if others.get(name) is not None:
            raise InputError(f"the base's attention uses {name}, which fine-tuning does not compute; use another base")
    outputs = [
        scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            attn_mask=_window(end - start, sliding_window, query.device),
            dropout_p=dropout if module.training else 0.0,
            is_causal=not sliding_window or end - start <= sliding_window,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for start, end in pairwise(document_borders)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _window(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """Which tokens see which, (length, length), where the window is shorter than the document; else None."""
    if not sliding_window or length <= sliding_window:
        return None
    position = torch.arange(length, device=device)
    back = position[:, None] - position
    return (back >= 0) & (back < sliding_window)


AttentionInterface.register(NAME, document_attention)
