"""KFP faces of package_release: the fine-tuned model, and the bare base in the same form to compare with."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def package_release(
    run: dict,
    rollout: dict,
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    examples: dsl.Input[dsl.Dataset],
    release: dsl.Output[dsl.Model],
):
    """Make the immutable release directory of the fine-tuned model, golden answers included."""
    from pathlib import Path

    from components.rollout.config import RolloutConfig
    from components.step_config import RunSettings
    from components.store import Store
    from serving.release import read_release

    config = RolloutConfig(**rollout)

    def make(directory):
        from components.package_release.package import Golden, package

        golden = Golden(config.golden_prompts, config.golden_tokens, config.gap_bound)
        package(config.serving, Path(base.path), Path(model.path), Path(examples.path), golden, directory)

    Store(RunSettings(**run)).produce(
        "package_release",
        config.model_dump(include={"serving", "golden_prompts", "golden_tokens", "gap_bound"}),
        {"base": Path(base.path), "model": Path(model.path), "examples": Path(examples.path)},
        Path(release.path),
        make,
    )
    release.metadata["digest"] = read_release(Path(release.path) / "release").digest


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def package_base(
    run: dict,
    rollout: dict,
    base: dsl.Input[dsl.Model],
    examples: dsl.Input[dsl.Dataset],
    release: dsl.Output[dsl.Model],
):
    """Package the bare base like a release, so that precision never decides the gate; it is never rolled out."""
    from pathlib import Path

    from components.rollout.config import RolloutConfig
    from components.step_config import RunSettings
    from components.store import Store
    from serving.release import read_release

    config = RolloutConfig(**rollout)

    def make(directory):
        from components.package_release.package import Golden, package

        golden = Golden(0, config.golden_tokens, config.gap_bound)
        package(config.serving, Path(base.path), None, Path(examples.path), golden, directory)

    Store(RunSettings(**run)).produce(
        "package_release",
        {"serving": config.serving.model_dump(), "bare_base": True},
        {"base": Path(base.path), "examples": Path(examples.path)},
        Path(release.path),
        make,
    )
    release.metadata["digest"] = read_release(Path(release.path) / "release").digest
