"""The KFP face of the rollout."""
# pyright: basic
# KFP has no type stubs, and reads a bare `dict` as the type of a parameter.

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def rollout(
    run: dict,
    rollout: dict,
    release: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    decision: dsl.Input[dsl.Artifact],
    live: dsl.Output[dsl.Artifact],
):
    """Bring a release that passed the gate to traffic. It acts on the world, so it is never reused."""
    import json
    from pathlib import Path

    from components.rollout.config import RolloutConfig
    from components.rollout.deliver import LIVE_FILE, deliver
    from components.step_config import RunSettings
    from components.store import write_atomically

    record = deliver(
        RunSettings(**run), RolloutConfig(**rollout), Path(release.path), Path(champion.path), Path(decision.path)
    )
    write_atomically(Path(live.path) / LIVE_FILE, json.dumps(record, indent=1))
