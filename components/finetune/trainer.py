"""transformers.Trainer on packed documents: per-document attention, and the head only where a label is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from components.finetune import attention
from components.finetune.batches import IGNORED, Document, PackedDataset, collate
from components.finetune.checkpoints import seal
from components.progress import Progress
from components.step_config import InputError


def label_loss_sum(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Summed cross entropy in nats over a packed batch's labels, and how many labels there are.

    The head, which is most of a small model's work, runs only at the positions that predict a label.
    """
    causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone: Any = getattr(causal, causal.base_model_prefix)
    hidden_1TC = backbone(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        cu_seq_lens_q=batch["cu_seq_lens_q"],  # for layers that are not attention
        document_borders=batch["cu_seq_lens_q"].tolist(),
        use_cache=False,
    ).last_hidden_state
    targets_T = batch["labels"][0, 1:]
    counted_T = targets_T != IGNORED
    logits_NV = causal.get_output_embeddings()(hidden_1TC[0, :-1][counted_T])
    return cross_entropy(logits_NV.float(), targets_T[counted_T], reduction="sum"), int(counted_T.sum())


@torch.no_grad()
def refuse_unfaithful(model: Any, documents: Sequence[Document]) -> None:
    """Compare a pack's loss with what the model's own code computes for its documents one by one.

    Raises InputError where they differ: an architecture that passes state along the row (Mamba, LFM2's
    convolutions) or scales its logits behind the head (Granite) would otherwise be trained on another loss.
    """
    causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    heads = [document.input_ids[:32] for document in documents[:2]]
    probes = [Document(head, [True] * len(head)) for head in heads]
    was_training = model.training
    model.eval()
    packed, _ = label_loss_sum(model, {name: tensor.to(causal.device) for name, tensor in collate(probes).items()})
    causal.set_attn_implementation("eager")
    apart = torch.zeros_like(packed)
    for head in heads:
        ids_1T = torch.tensor([head], device=causal.device)
        logits_TV = causal(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
        apart += cross_entropy(logits_TV, ids_1T[0, 1:], reduction="sum")
    causal.set_attn_implementation(attention.NAME)
    model.train(was_training)
    tolerance = 1e-4 if causal.dtype == torch.float32 else 2e-2
    if not torch.isclose(packed, apart, rtol=tolerance):
        raise InputError(
            f"fine-tuning computes another loss than {type(causal).__name__} itself: {packed:.4f} and {apart:.4f} nats "
            f"on {sum(map(len, heads))} tokens; this architecture cannot be packed, so use another base"
        )


class PackedTrainer(Trainer):
    """Trains the packs in their planned order, once."""

    loss_is_scaled_for_ga = True  # by num_items_in_batch

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        # the plan is the order; shuffling here would make the position depend on Trainer's own state
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean over the labels of all packs of one optimizer step, not a mean of the packs' means."""
        if return_outputs:
            raise ValueError("a packed batch has no outputs per example; score examples with components/evaluate")
        total, _ = label_loss_sum(model, inputs)
        # a step whose packs hold no label at all has loss 0, not 0 / 0
        return total / num_items_in_batch.clamp(min=1)


class Watch(TrainerCallback):
    """Says progress after each optimizer step, and seals each checkpoint once it is written."""

    def __init__(self, dataset: PackedDataset, accumulate: int):
        self._dataset, self._accumulate = dataset, accumulate
        self._progress = Progress("finetune", self._tokens(0, len(dataset)), "tokens")

    def _tokens(self, first: int, end: int) -> int:
        """Tokens of the packs [first, end)."""
        return sum(self._dataset.tokens(index) for index in range(first, min(end, len(self._dataset))))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # the clock starts here, not when the callback is made; a resumed training begins behind what is done
        done = self._tokens(0, state.global_step * self._accumulate)
        self._progress = Progress("finetune", self._tokens(0, len(self._dataset)), "tokens", done)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        end = state.global_step * self._accumulate
        last = state.log_history[-1] if state.log_history else {}
        self._progress.advance(
            self._tokens(end - self._accumulate, end), **({"loss": last["loss"]} if "loss" in last else {})
        )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir is not None  # train() sets it
        seal(Path(args.output_dir, f"checkpoint-{state.global_step}"))
