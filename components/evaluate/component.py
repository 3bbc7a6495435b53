"""KFP face of evaluate."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def evaluate(
    run: dict,
    evaluation: dict,
    base: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    challenger: dsl.Input[dsl.Model],
    examples: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Score base, champion and challenger on the test split, each in its servable form."""
    import shutil
    from pathlib import Path

    from components.evaluate.config import EvaluationConfig
    from components.evaluate.summary import read_metrics
    from components.step_config import RunSettings
    from components.store import Store

    config = EvaluationConfig(**evaluation)
    settings = RunSettings(**run)
    artifacts = {"base": base, "champion": champion, "challenger": challenger, "examples": examples}
    inputs = {name: Path(artifact.path) for name, artifact in artifacts.items()}
    output = Path(scores.path)

    def make(directory):
        from components.evaluate.evaluate import evaluate

        evaluate(
            config,
            base=inputs["base"],
            champion=inputs["champion"],
            challenger=inputs["challenger"],
            examples=inputs["examples"],
            directory=directory,
        )
        found = read_metrics(directory)
        if found:
            from components.tracking import log_step

            log_step(settings, "evaluate", config.model_dump(), found, [directory / "report.html"])

    Store(settings).produce("evaluate", config.model_dump(), inputs, output, make)
    for name, value in read_metrics(output).items():
        metrics.log_metric(name, value)
    shutil.copyfile(output / "report.html", report.path)
