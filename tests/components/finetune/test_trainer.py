"""A packed step computes what transformers computes for its padded documents: the same loss, the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    Lfm2Config,
    MistralConfig,
    TrainerCallback,
)

from components.finetune import attention
from components.finetune.batches import IGNORED, Document, PackedDataset, collate
from components.finetune.config import TrainingConfig
from components.finetune.train import training_arguments
from components.finetune.trainer import PackedTrainer, label_loss_sum, refuse_unfaithful
from components.step_config import InputError

ARCHITECTURES = ["llama", "gpt2"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def padded(documents):
    """The documents one per row, as transformers' own code wants them."""
    width = max(map(len, documents))
    rows = {"input_ids": [], "attention_mask": [], "labels": []}
    for document in documents:
        missing = width - len(document)
        pairs = zip(document.input_ids, document.supervised, strict=True)
        rows["input_ids"].append(document.input_ids + [0] * missing)
        rows["attention_mask"].append([1] * len(document) + [0] * missing)
        rows["labels"].append([token if counted else IGNORED for token, counted in pairs] + [IGNORED] * missing)
    return {name: torch.tensor(values) for name, values in rows.items()}


def labels_of(documents):
    return sum(sum(document.supervised[1:]) for document in documents)


def gradients(model):
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(model, reference):
    mine, theirs = gradients(model), gradients(reference)
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], **CLOSE, msg=lambda why, name=name: f"{name}: {why}")
    assert sum(float(gradient.abs().sum()) for gradient in mine.values()) > 0


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_the_padded_documents(architecture, method, load, documents):
    pack = documents[:4]
    packed, reference = load(architecture, method=method), load(architecture, method=method)
    total, count = label_loss_sum(packed, collate(pack))
    (total / count).backward()

    causal = reference.get_base_model() if method == "lora" else reference
    causal.set_attn_implementation("eager")
    loss = causal(**padded(pack), use_cache=False).loss
    loss.backward()

    assert count == labels_of(pack)
    torch.testing.assert_close(total / count, loss, **CLOSE)
    assert_same_gradients(packed, reference)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_changing_one_document_leaves_the_loss_and_gradients_of_the_other_as_they_were(architecture, load, documents):
    silent = [Document(each.input_ids, [False] * len(each)) for each in documents[:3]]
    shuffled = Document(silent[0].input_ids[::-1], silent[0].supervised)
    judged = documents[3]
    before, after, elsewhere = (load(architecture) for _ in range(3))

    losses = []
    for model, neighbours in ((before, silent[:1]), (after, [shuffled]), (elsewhere, silent[1:])):
        loss, count = label_loss_sum(model, collate([*neighbours, judged, silent[2]]))
        assert count == labels_of([judged])
        loss.backward()
        losses.append(loss.detach())

    assert torch.equal(losses[0], losses[1])  # of the same length: not even rounding may differ
    torch.testing.assert_close(losses[2] / count, losses[0] / count, **CLOSE)
    # embeddings get a gradient by the tokens that are there, so not theirs alone
    for name, gradient in gradients(before).items():
        torch.testing.assert_close(gradients(after)[name] / count, gradient / count, **CLOSE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_at_the_labels_gives_what_all_logits_give(architecture, load, documents):
    model, batch = load(architecture), collate(documents[:3])
    total, count = label_loss_sum(model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    logits_TV = model(**inputs, document_borders=batch["cu_seq_lens_q"].tolist(), use_cache=False).logits[0]
    expected = cross_entropy(logits_TV[:-1], batch["labels"][0, 1:], ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(total, expected, **CLOSE)
    assert count == int((batch["labels"] != IGNORED).sum())


def test_a_gpu_is_waited_for_once_and_not_in_every_layer(load, documents, monkeypatch):
    model, batch = load("llama"), collate(documents[:3])
    read: list[torch.Tensor] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: read.append(self) or tolist(self))
    label_loss_sum(model, batch)
    assert len(read) == 1


def test_only_supervised_tokens_count(load, documents):
    model, document = load("llama"), documents[0]
    total, count = label_loss_sum(model, collate([document]))
    model.set_attn_implementation("eager")
    logits_TV = model(input_ids=torch.tensor([document.input_ids]), use_cache=False).logits[0]
    surprise_T = cross_entropy(logits_TV[:-1], torch.tensor(document.input_ids[1:]), reduction="none")
    counted_T = torch.tensor(document.supervised[1:])
    assert 0 < count == int(counted_T.sum()) < len(document) - 1
    torch.testing.assert_close(total, surprise_T[counted_T].sum(), **CLOSE)


@pytest.mark.parametrize("padding_ends_turns", [False, True])
def test_the_token_that_ends_a_turn_is_trained_also_when_it_is_the_padding(load, documents, padding_ends_turns):
    model = load("llama")
    end, document = model.config.eos_token_id, documents[0]
    if padding_ends_turns:
        model.config.pad_token_id = end
    ends = [index for index, token in enumerate(document.input_ids) if token == end and document.supervised[index]]
    assert ends, "the answer's end is supervised"
    only_ends = [index in ends for index in range(len(document))]
    total, count = label_loss_sum(model, collate([Document(document.input_ids, only_ends)]))
    total.backward()
    assert count == len(ends)
    assert total.item() > 0
    assert model.get_output_embeddings().weight.grad[end].norm().item() > 1e-3


class Gradients(TrainerCallback):
    """Keeps a copy of the gradients that each optimizer step sees."""

    def __init__(self, model):
        self._model = model
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.steps.append({name: gradient.clone() for name, gradient in gradients(self._model).items()})


def train_packs(model, documents, packs, directory, accumulate):
    """Losses and gradients of each optimizer step; the rate is so small that the weights stay put."""
    config = TrainingConfig(accumulate=accumulate, learning_rate=1e-30, max_grad_norm=1e9, checkpoint_steps=100)
    dataset, watch = PackedDataset(documents, packs), Gradients(model)
    trainer = PackedTrainer(
        model=model,
        args=training_arguments(config, directory, len(packs)),
        train_dataset=dataset,
        data_collator=lambda batch: collate(batch[0]),
        callbacks=[watch],
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], watch.steps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_accumulated_packs_are_one_batch_not_a_mean_of_means(architecture, load, documents, tmp_path):
    few = Document(documents[0].input_ids, [False] * (len(documents[0]) - 3) + [True] * 3)
    packs = [[few], documents[1:4], [documents[4]]]
    flat = [few, *documents[1:5]]
    model = load(architecture)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # GPT-2's own; what is compared has none
            module.p = 0.0
    losses, steps = train_packs(model, flat, [[0], [1, 2, 3], [4]], tmp_path, accumulate=2)

    # two packs in the first step, what is left in the second
    for loss, seen, batch in zip(losses, steps, (packs[0] + packs[1], packs[2]), strict=True):
        reference = load(architecture)
        reference.set_attn_implementation("eager")
        expected = reference(**padded(batch), use_cache=False).loss
        expected.backward()
        assert loss == pytest.approx(expected.item(), abs=1e-5)
        for name, gradient in gradients(reference).items():
            torch.testing.assert_close(seen[name], gradient, **CLOSE)


def test_packs_are_trained_in_the_planned_order(load, documents, tmp_path, monkeypatch):
    seen, compute = [], PackedTrainer.compute_loss

    def remember(self, model, inputs, **rest):
        seen.append(inputs["input_ids"][0].tolist())
        return compute(self, model, inputs, **rest)

    monkeypatch.setattr(PackedTrainer, "compute_loss", remember)
    packs = [[3], [1, 2], [0], [4]]
    train_packs(load("llama"), documents, packs, tmp_path, accumulate=1)
    assert seen == [[token for index in pack for token in documents[index].input_ids] for pack in packs]


def test_a_step_without_any_label_changes_nothing_and_is_no_nan(load, documents, tmp_path):
    silent = [Document(each.input_ids, [False] * len(each)) for each in documents[:2]]
    losses, steps = train_packs(load("llama"), silent, [[0], [1]], tmp_path, accumulate=2)
    assert losses == [0.0]
    assert all(float(gradient.abs().max()) == 0 for gradient in steps[0].values())


def test_outputs_per_example_are_refused(load, documents, tmp_path):
    arguments = training_arguments(TrainingConfig(), tmp_path, 1)
    trainer = PackedTrainer(model=load("llama"), args=arguments, data_collator=collate)
    with pytest.raises(ValueError, match="components/evaluate"):
        trainer.compute_loss(trainer.model, collate(documents[:1]), return_outputs=True)


TINY = {
    "vocab_size": 900,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def build(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**TINY, logits_scaling=8.0),  # scales what the head gives
        Lfm2Config(**TINY, layer_types=["conv", "full_attention"]),  # convolutions run over the borders
    ],
    ids=lambda config: config.model_type,
)
def test_an_architecture_that_would_be_trained_on_another_loss_is_refused(config, documents):
    with pytest.raises(InputError, match="another loss"):
        refuse_unfaithful(build(config), documents)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_check_passes_what_packs_and_leaves_the_model_as_it_was(architecture, load, documents):
    model = load(architecture, method="lora").train()
    refuse_unfaithful(model, documents)
    assert model.training
    assert model.get_base_model().config._attn_implementation == attention.NAME
    assert not gradients(model)


def test_a_sliding_window_is_respected(documents):
    model = build(MistralConfig(**TINY, sliding_window=16)).eval()
    refuse_unfaithful(model, documents)
    pack = documents[:3]
    assert min(map(len, pack)) > 16
    total, count = label_loss_sum(model, collate(pack))
    model.set_attn_implementation("eager")
    torch.testing.assert_close(total / count, model(**padded(pack), use_cache=False).loss, **CLOSE)
