"""KFP face of fetch_base."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def fetch_base(
    run: dict,
    base: dict,
    champion: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
):
    """Bring the base model as a plain safetensors directory with its digest."""
    from pathlib import Path

    from components.fetch_base.config import BaseConfig
    from components.fetch_base.fetch import fetch_base, source_identity
    from components.step_config import RunSettings
    from components.store import Store

    config = BaseConfig(**base)
    store = Store(RunSettings(**run))

    def make(directory):
        fetch_base(config, store.releases, Path(champion.path), directory)

    store.produce(
        "fetch_base",
        {"base": config.model_dump(), "source": source_identity(config, Path(champion.path))},
        {f"corpus-{n}": Path(path) for n, path in enumerate(config.scratch.corpus if config.scratch else [])},
        Path(model.path),
        make,
    )
    model.metadata["source"] = config.source
