"""The KFP face of the pipeline's first step: validate the run, and read what is live."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def resolve_champion(
    run: dict,
    data: dict,
    base: dict,
    training: dict,
    evaluation: dict,
    gate: dict,
    rollout: dict,
    champion: dsl.Output[dsl.Model],
):
    """Validate all seven parameters, then read what is live. It asks the world, so it is never reused."""
    from pathlib import Path

    from components.progress import say
    from components.resolve_champion.resolve import resolve, validate
    from components.rollout.config import RolloutConfig
    from components.step_config import RunSettings
    from components.store import Store

    validate(
        {
            "run": run,
            "data": data,
            "base": base,
            "training": training,
            "evaluation": evaluation,
            "gate": gate,
            "rollout": rollout,
        }
    )
    found = resolve(Store(RunSettings(**run)), RolloutConfig(**rollout), Path(champion.path))
    say("champion", step="resolve_champion", service=found.service, release=found.digest)
