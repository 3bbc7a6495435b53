"""How well a release predicts the reference answers: summed negative log-likelihood of each, in nats.

Axes: B conversations, T tokens, K positions whose logits are needed, N counted tokens of a conversation, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from components.chat import Encoded, Message, encode, load_tokenizer
from components.progress import Progress, say
from components.step_config import InputError
from serving.engine.weights import compute_device, load_weights
from serving.release import SYSTEM_PROMPT_FILE, read_release

if TYPE_CHECKING:
    pass

_IGNORED = -100


@dataclass(frozen=True)
class Example:
    """A test conversation; `messages` begins with the data's system prompt where the data has one."""

    id: str
    messages: list[Message]
    question_digest: str = ""
    """Of the first question. No score depends on it; the gate counts examples that share it once."""


@dataclass(frozen=True)
class Score:
    """Of one example: nats, and what they are counted over."""

    nll_sum: float
    tokens: int
    bytes: int


def as_served(messages: Sequence[Message], data_prompt: str, release_prompt: str) -> list[Message]:
    """The conversation as the release's server would put it: its own system prompt in place of the data's."""
    if data_prompt and messages[0]["role"] == "system" and messages[0]["content"] == data_prompt:
        messages = messages[1:]
    elif messages[0]["role"] == "system":
        return list(messages)  # the example's own, which a client would send too
    return [{"role": "system", "content": release_prompt}, *messages] if release_prompt else list(messages)


def score_release(
    directory: Path, examples: Sequence[Example], data_prompt: str, *, batch_tokens: int, name: str
) -> list[Score]:
    """One Score per example, in order, of the weights in the form in which the release serves them.

    Raises InputError for a conversation that is longer than the model's context: the model could not serve it.
    """
    release = read_release(directory)
    tokenizer = load_tokenizer(directory)
    prompt = (directory / SYSTEM_PROMPT_FILE).read_text(encoding="utf-8")
    conversations = [as_served(example.messages, data_prompt, prompt) for example in examples]
    encoded = [encode(tokenizer, messages) for messages in conversations]
    for example, tokens in zip(examples, encoded, strict=True):
        if len(tokens.input_ids) > release.context_length:
            raise InputError(
                f"test example {example.id} has {len(tokens.input_ids)} tokens for the {name}, whose context holds "
                f"{release.context_length}; lower data.max_tokens"
            )
    model = load_weights(directory, release).to(compute_device())  # type: ignore[arg-type]
    nll = _nll_sums(model, encoded, batch_tokens, name)
    return [
        Score(
            nll_sum=nats,
            tokens=sum(tokens.supervised[1:]),
            bytes=sum(len(message["content"].encode()) for message in messages if message["role"] == "assistant"),
        )
        for nats, tokens, messages in zip(nll, encoded, conversations, strict=True)
    ]


@torch.no_grad()
def _nll_sums(model: Any, encoded: Sequence[Encoded], batch_tokens: int, name: str) -> list[float]:
    """Summed nats over the supervised tokens of each conversation."""
    sums = [0.0] * len(encoded)
    progress = Progress("evaluate", sum(len(item.input_ids) for item in encoded), "tokens")
    say("scoring", step="evaluate", model=name, conversations=len(encoded))
    for batch in _batches([len(item.input_ids) for item in encoded], batch_tokens):
        input_ids_BT, labels_BT, attention_BT = _pad([encoded[index] for index in batch], model.device)
        targets_BT = labels_BT[:, 1:]
        # positions that predict a counted token in any row; the model's own forward scales or caps its logits
        kept_K = (targets_BT != _IGNORED).any(0).nonzero()[:, 0]
        logits_BKV = model(
            input_ids=input_ids_BT, attention_mask=attention_BT, use_cache=False, logits_to_keep=kept_K
        ).logits
        for row, index in enumerate(batch):
            targets_K = targets_BT[row, kept_K]
            counted_K = targets_K != _IGNORED
            losses_N = cross_entropy(logits_BKV[row, counted_K].float(), targets_K[counted_K], reduction="none")
            sums[index] = float(losses_N.double().sum())
        progress.advance(sum(len(encoded[index].input_ids) for index in batch))
    return sums


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, each at most `batch_tokens` with its padding, longest first."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pad(batch: Sequence[Encoded], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, labels, attention mask, each (B, T), padded on the right; which id pads does not matter."""
    longest = max(len(item.input_ids) for item in batch)
    input_ids_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    labels_BT = torch.full((len(batch), longest), _IGNORED)
    attention_BT = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, item in enumerate(batch):
        length = len(item.input_ids)
        ids_T = torch.tensor(item.input_ids)
        input_ids_BT[row, :length] = ids_T
        attention_BT[row, :length] = 1
        labels_BT[row, :length] = torch.where(torch.tensor(item.supervised), ids_T, _IGNORED)
    return input_ids_BT.to(device), labels_BT.to(device), attention_BT.to(device)
