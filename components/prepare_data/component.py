"""KFP face of prepare_data."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def prepare_data(
    run: dict,
    data: dict,
    base: dsl.Input[dsl.Model],
    examples: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Read, check, split and tokenize the conversations, and say what was refused."""
    import json
    import shutil
    from pathlib import Path

    from components.prepare_data.config import DataConfig
    from components.prepare_data.prepare import prepare
    from components.prepare_data.readers import fetched, find_sources
    from components.step_config import RunSettings
    from components.store import Store

    config = DataConfig(**data)
    with fetched(find_sources(config.sources)) as sources:
        Store(RunSettings(**run)).produce(
            "prepare_data",
            {
                "data": config.model_dump(exclude={"sources"}),
                "sources": [[source.name, source.version] for source in sources],
            },
            {
                "base": Path(base.path),
                **{f"source-{n:04d}": Path(s.location) for n, s in enumerate(sources) if s.is_local},
            },
            Path(examples.path),
            lambda directory: prepare(sources, config, Path(base.path) / "model", directory),
        )
    shutil.copyfile(Path(examples.path) / "report.html", report.path)
    said = json.loads((Path(examples.path) / "data.json").read_bytes())
    examples.metadata["digest"] = said["digest"]
    for name, value in said["counts"].items():
        metrics.log_metric(name, value)
    metrics.log_metric("train_tokens", said["tokens"]["train"])
    metrics.log_metric("train_supervised_tokens", said["supervised_tokens"]["train"])
