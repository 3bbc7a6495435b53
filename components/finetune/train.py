"""Fine-tune a base model on prepared examples; killed and started again, it ends in the same weights."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from components.finetune import attention
from components.finetune.batches import Document, PackedDataset, collate, plan_packs
from components.finetune.checkpoints import newest_intact
from components.finetune.config import TrainingConfig
from components.finetune.trainer import PackedTrainer, Watch, label_loss_sum, refuse_unfaithful
from components.progress import say
from components.report import Report
from components.step_config import InputError
from components.store import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SUMMARY_FILE = "training.json"


@dataclass(frozen=True)
class TrainingSummary:
    """What the training did; losses are nats per supervised token."""

    steps: int
    tokens: int
    supervised_tokens: int
    documents: int
    parameters: int
    trainable_parameters: int
    train_loss: float
    validation_loss_before: float
    validation_loss: float


def train(config: TrainingConfig, base: Path, examples: Path, directory: Path) -> TrainingSummary:
    """Write `adapter/` (LoRA) or `model/` (full), `training.json`, `loss.csv` and `loss.html` into `directory`.

    `base` holds `model/` and `origin.json`, `examples` the parquet splits. Checkpoints stand in
    `directory/checkpoints` until the training is over; what is found there is resumed. Raises InputError when no
    document can be trained on, one is longer than the base reads, the base is of a kind that cannot be packed, or the
    training diverges.
    """
    checkpoints = directory / "checkpoints"
    if (directory / _SUMMARY_FILE).is_file():  # written last: only the tidying up was missing
        shutil.rmtree(checkpoints, ignore_errors=True)
        return TrainingSummary(**json.loads((directory / _SUMMARY_FILE).read_bytes()))
    if config.threads:
        torch.set_num_threads(config.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    documents = read_documents(examples / "train.parquet")
    validation = read_documents(examples / "validation.parquet")
    dataset = PackedDataset(documents, _plan(config, documents))
    model = load_trainable(config, base / "model")
    _refuse_too_long([*documents, *validation], model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # type: ignore[arg-type]
    refuse_unfaithful(model, documents)
    before = _validation_loss_before(model, validation, config, directory)
    trainer = PackedTrainer(
        model=model,
        args=training_arguments(config, checkpoints, len(dataset)),
        train_dataset=dataset,
        data_collator=_collate_one,
        callbacks=[Watch(dataset, config.accumulate)],
    )
    trainer.remove_callback(PrinterCallback)
    resume = newest_intact(checkpoints) if checkpoints.is_dir() else None
    if resume:
        say("resumed", step="finetune", checkpoint=resume.name)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    labels = [sum(sum(document.supervised[1:]) for document in pack) for pack in dataset]
    summary = TrainingSummary(
        steps=trainer.state.global_step,
        tokens=sum(dataset.tokens(index) for index in range(len(dataset))),
        supervised_tokens=sum(labels),
        documents=len(documents),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        # not Trainer's own, which after a resume covers only what came after it
        train_loss=_train_loss(history, labels, config.accumulate),
        validation_loss_before=before,
        validation_loss=validation_loss(model, validation, config.batch_tokens),
    )
    _refuse_diverged(summary)
    _save_trained(config, model, base, directory)
    _write_curve(history, summary, directory)
    write_atomically(directory / _SUMMARY_FILE, json.dumps(asdict(summary), indent=1))
    shutil.rmtree(checkpoints)
    return summary


def _train_loss(history: list[dict[str, Any]], labels: list[int], accumulate: int) -> float:
    """Nats per supervised token over all steps; `labels`: how many there are in each pack."""
    total = 0.0
    for entry in history:  # the loss of a step is the mean over its labels: a short last one has fewer
        end = entry["step"] * accumulate
        total += entry["loss"] * sum(labels[end - accumulate : end])
    return total / max(1, sum(labels))


def _collate_one(packs: list[list[Document]]) -> dict[str, torch.Tensor]:
    """Trainer's batch is one pack; more would mean that it splits batches over devices, and all but one were lost."""
    (pack,) = packs
    return collate(pack)


def read_documents(parquet: Path) -> list[Document]:
    """The tokenized conversations of a split."""
    table = pq.read_table(parquet, columns=["input_ids", "supervised"])
    columns = zip(table["input_ids"].to_pylist(), table["supervised"].to_pylist(), strict=True)
    return [Document(input_ids, supervised) for input_ids, supervised in columns]


def _plan(config: TrainingConfig, documents: list[Document]) -> list[list[int]]:
    if not any(any(document.supervised[1:]) for document in documents):
        raise InputError("no training example has an answer to learn from")
    return plan_packs(
        [len(document) for document in documents],
        pack_tokens=config.batch_tokens,
        epochs=config.epochs,
        seed=config.seed,
        max_tokens=config.max_train_tokens,
    )


def _refuse_too_long(documents: list[Document], model: PreTrainedModel) -> None:
    reads = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(document) for document in documents)
    if reads and longest > reads:
        raise InputError(f"an example has {longest} tokens and the base reads {reads}; set data.max_tokens to {reads}")


def load_trainable(config: TrainingConfig, model_directory: Path) -> PreTrainedModel:
    """The base with per-document attention; wrapped by PEFT when the method is LoRA."""
    set_seed(config.seed)
    # weights that are trained themselves stay float32: in bfloat16 most updates would round to nothing
    dtype = _DTYPES[config.dtype] if config.method == "lora" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=dtype, attn_implementation=attention.NAME)
    if config.method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT divides it; a float is fine
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        # GPT-2 keeps its linear layers transposed (Conv1D)
        fan_in_fan_out=model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)  # type: ignore[return-value]


def training_arguments(config: TrainingConfig, checkpoints: Path, packs: int) -> TrainingArguments:
    """Trainer's settings; one "epoch" of Trainer is the whole plan, whose packs already cover all epochs."""
    steps = math.ceil(packs / config.accumulate)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulate,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(steps * config.warmup_share),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        activation_checkpointing=config.gradient_checkpointing,
        # the reentrant kind would want a gradient of the embeddings, which are frozen with LoRA
        activation_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch",
        bf16=config.dtype == "bfloat16",
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),  # Apple's MPS would not resume bit for bit
        use_cache=True,  # written into the trained model's config.json; training itself never uses one
        seed=config.seed,
    )
    # of several GPUs one is used: Trainer would otherwise feed them a batch of packs, one each
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@torch.no_grad()
def validation_loss(model: torch.nn.Module, documents: list[Document], pack_tokens: int) -> float:
    """Nats per supervised token over all documents; NaN when there are none."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    packs = plan_packs([len(document) for document in documents], pack_tokens=pack_tokens, epochs=1, seed=0)
    total, count = 0.0, 0
    for pack in packs:
        batch = {name: tensor.to(device) for name, tensor in collate([documents[index] for index in pack]).items()}
        loss, labels = label_loss_sum(model, batch)
        total, count = total + float(loss), count + labels
    model.train(was_training)
    return total / count if count else math.nan


def _validation_loss_before(
    model: torch.nn.Module, documents: list[Document], config: TrainingConfig, directory: Path
) -> float:
    """The base's loss, kept in a file so that a resumed run does not compute it again from trained weights."""
    kept = directory / "validation_before.json"
    if kept.is_file():
        return json.loads(kept.read_bytes())
    loss = validation_loss(model, documents, config.batch_tokens)
    write_atomically(kept, json.dumps(loss))
    return loss


def _refuse_diverged(summary: TrainingSummary) -> None:
    if not (math.isfinite(summary.train_loss) and math.isfinite(summary.validation_loss)):
        raise InputError(
            f"the training diverged: its loss is {summary.train_loss} and the validation loss went from "
            f"{summary.validation_loss_before:.3f} to {summary.validation_loss}; lower training.learning_rate"
        )


def _save_trained(config: TrainingConfig, model: PreTrainedModel, base: Path, directory: Path) -> None:
    """Write `adapter/` or `model/`, the same bytes on every machine and after every kill."""
    target = directory / ("adapter" if config.method == "lora" else "model")
    if config.method == "full":
        model.save_pretrained(target)
        return
    settings: Any = model.peft_config["default"]  # type: ignore[index]
    settings.base_model_name_or_path = json.loads((base / "origin.json").read_bytes())["source"].removeprefix("hub:")
    if isinstance(settings.target_modules, set):  # whose order differs from process to process; a pattern is a str
        settings.target_modules = sorted(settings.target_modules)
    # "auto" would ask the Hub about the base; no embedding is trained
    model.save_pretrained(target, save_embedding_layers=False)
    (target / "README.md").unlink()  # PEFT's empty form of a model card


def _write_curve(history: list[dict[str, Any]], summary: TrainingSummary, directory: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    (directory / "validation_before.json").unlink(missing_ok=True)
    with (directory / "loss.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "learning_rate", "grad_norm"])
        writer.writerows(
            [entry["step"], entry["loss"], entry["learning_rate"], entry["grad_norm"]] for entry in history
        )
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot([entry["step"] for entry in history], [entry["loss"] for entry in history], marker=".", label="training")
    axes.axhline(summary.validation_loss_before, linestyle=":", color="gray", label="validation, before")
    axes.axhline(summary.validation_loss, linestyle="--", color="tab:green", label="validation, after")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("nats per supervised token")
    axes.legend()
    report = Report("Fine-tuning", f"{summary.documents} documents, {summary.tokens:,} tokens, {summary.steps} steps.")
    report.figure(figure, "Training loss by optimizer step, with the validation loss before and after")
    report.table(["measure", "value"], [[name.replace("_", " "), value] for name, value in asdict(summary).items()])
    report.write(directory / "loss.html")
    pyplot.close(figure)
