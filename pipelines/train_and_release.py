"""The pipeline, as the dashboard draws it: from data to a gated, live model."""
# pyright: reportCallIssue=false, reportArgumentType=false
# KFP supplies the steps' outputs, and hands channels where values will be.
# No `from __future__ import annotations` here: KFP reads the parameters' types, not their names

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from components.fetch_base.component import fetch_base
from components.finetune.component import finetune
from components.package_release.component import package_base, package_release
from components.prepare_data.component import prepare_data
from components.quality_gate.component import quality_gate, stop
from components.resolve_champion.component import resolve_champion
from components.rollout.component import rollout as roll_out
from pipelines.placement import DEFAULT_ENGINE, Engine, Placement, place


def build(placement: Placement | None, defaults: Mapping[str, dict[str, Any]], engine: Engine = DEFAULT_ENGINE) -> Any:
    """The pipeline with a run file's seven dicts as the form's default values.

    `placement` says where each step runs in a cluster, and `engine` whose cluster that is; None leaves it out, for
    the local runner.
    """

    @dsl.pipeline(
        name="train-and-release",
        description="Fine-tune a language model, compare it with what is live, roll it out when the gate passes.",
    )
    def train_and_release(
        run: dict = defaults["run"],
        data: dict = defaults["data"],
        base: dict = defaults["base"],
        training: dict = defaults["training"],
        evaluation: dict = defaults["evaluation"],
        gate: dict = defaults["gate"],
        rollout: dict = defaults["rollout"],
    ):
        def on(task: dsl.PipelineTask) -> dsl.PipelineTask:
            return place(task, placement, engine) if placement else task

        # refuses a bad parameter before anything costs money
        champion = on(
            resolve_champion(
                run=run, data=data, base=base, training=training, evaluation=evaluation, gate=gate, rollout=rollout
            )
        ).outputs["champion"]
        base_model = on(fetch_base(run=run, base=base, champion=champion)).outputs["model"]
        examples = on(prepare_data(run=run, data=data, base=base_model)).outputs["examples"]
        bare = on(package_base(run=run, rollout=rollout, base=base_model, examples=examples))
        # a base that cannot be served is found out by packaging it, before training costs money
        trained = on(finetune(run=run, training=training, base=base_model, examples=examples).after(bare))
        release = on(
            package_release(
                run=run, rollout=rollout, base=base_model, model=trained.outputs["model"], examples=examples
            )
        ).outputs["release"]
        scores = on(
            evaluate(
                run=run,
                evaluation=evaluation,
                base=bare.outputs["release"],
                champion=champion,
                challenger=release,
                examples=examples,
            )
        ).outputs["scores"]
        decision = on(quality_gate(run=run, gate=gate, scores=scores))
        with dsl.If(decision.outputs["Output"] == "pass", name="pass"):
            on(
                roll_out(
                    run=run, rollout=rollout, release=release, champion=champion, decision=decision.outputs["verdict"]
                )
            )
        with dsl.Else(name="stop"):
            on(stop(verdict=decision.outputs["Output"], decision=decision.outputs["verdict"]))

    return train_and_release
