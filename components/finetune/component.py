"""KFP face of finetune."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def finetune(
    run: dict,
    training: dict,
    base: dsl.Input[dsl.Model],
    examples: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    loss_curve: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Fine-tune the base on the training split; resumes where a killed run left off."""
    import json
    import shutil
    from pathlib import Path

    from components.finetune.config import TrainingConfig
    from components.step_config import RunSettings
    from components.store import Store

    config = TrainingConfig(**training)
    settings = RunSettings(**run)
    output = Path(model.path)

    def make(directory):
        from components.finetune.train import train
        from components.tracking import log_step

        train(config, Path(base.path), Path(examples.path), directory)
        # before the result counts as complete, so that no kill leaves a result without its record
        summary = json.loads((directory / "training.json").read_bytes())
        log_step(settings, "finetune", config.model_dump(), summary, [directory / "loss.html", directory / "loss.csv"])

    inputs = {"base": Path(base.path), "examples": Path(examples.path)}
    # where checkpoints are written does not change where the training ends
    decisive = config.model_dump(exclude={"checkpoint_steps"})
    Store(settings).produce("finetune", decisive, inputs, output, make)
    summary = json.loads((output / "training.json").read_bytes())
    for name, value in summary.items():
        metrics.log_metric(name, value)
    shutil.copyfile(output / "loss.html", loss_curve.path)
