"""The KFP faces of the gate: `quality_gate` decides, `stop` ends a run that may not go on."""
# pyright: basic
# KFP has no type stubs, and reads a bare `dict` as the type of a parameter.

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def quality_gate(
    run: dict,
    gate: dict,
    scores: dsl.Input[dsl.Dataset],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Decide whether the challenger may replace what is live: "pass", "fail" or "inconclusive"."""
    import shutil
    from pathlib import Path

    from components.quality_gate.config import GateConfig
    from components.quality_gate.judge import REPORT_FILE, announce, attest, judge, read_verdict, verdict_metrics
    from components.step_config import RunSettings
    from components.store import Store

    config, store = GateConfig(**gate), Store(RunSettings(**run))
    directory, inputs = Path(verdict.path), {"scores": Path(scores.path)}

    def make(result: Path) -> None:
        judge(inputs["scores"], config, result)

    store.produce("quality_gate", config.model_dump(mode="json"), inputs, directory, make)
    found = read_verdict(directory)
    attest(store, found)
    announce(found)
    for name, value in verdict_metrics(found).items():
        metrics.log_metric(name, value)
    shutil.copyfile(directory / REPORT_FILE, report.path)
    return found["verdict"]


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def stop(verdict: str, decision: dsl.Input[dsl.Artifact]) -> str:
    """End the run without a rollout and say why. A stop is a successful step: the gate did its work."""
    from pathlib import Path

    from components.progress import say
    from components.quality_gate.judge import read_verdict

    reason = f"{verdict}: {read_verdict(Path(decision.path))['reason']}"
    say("stopped", step="stop", verdict=verdict, reason=reason)
    return reason
