"""What the rollout's settings refuse, in words, before anything is spent."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from components.rollout.config import KServeConfig, RolloutConfig, as_recorded


def test_defaults_are_valid_for_both_targets():
    assert RolloutConfig().stages == [10, 50, 100]
    assert RolloutConfig(target="kserve").kserve == KServeConfig()


@pytest.mark.parametrize("stages", [[10, 50], [50, 10, 100], [0, 100], [10, 10, 100], []])
def test_stages_rise_to_everything(stages):
    with pytest.raises(ValidationError, match=r"must rise from at least 1 to 100|at least 1 item"):
        RolloutConfig(stages=stages)


def test_a_setting_of_the_other_target_is_not_ignored():
    with pytest.raises(ValidationError, match=r"kserve \(replicas\) is for target kserve"):
        RolloutConfig(kserve=KServeConfig(replicas=2))


def test_a_pod_must_have_time_to_drain():
    with pytest.raises(ValidationError, match=r"kserve\.grace_seconds 60 must be above"):
        RolloutConfig(target="kserve", drain_seconds=60, kserve=KServeConfig(grace_seconds=60))


VLLM = {"serving": {"engine": "vllm", "precision": "bf16"}, "kserve": {"gpus": 1}}


@pytest.mark.parametrize(
    ("engine", "runtime"),
    [({}, "manifests/base/serving-runtime.yaml"), (VLLM, "manifests/components/gke-vllm/serving-runtime.yaml")],
    ids=["openvino", "vllm"],
)
def test_no_server_is_waited_for_longer_than_its_runtime_lets_it_start(engine, runtime):
    documents = yaml.safe_load_all((Path(__file__).parents[3] / runtime).read_text())
    (spec,) = (one["spec"] for one in documents if one["kind"] == "ServingRuntime")
    probes = [one["startupProbe"] for one in spec["containers"]]
    longest = min(one["periodSeconds"] * one["failureThreshold"] for one in probes)
    assert RolloutConfig(target="kserve", ready_seconds=longest, **engine)
    with pytest.raises(ValidationError, match=rf"ready_seconds {longest + 1} is above the {longest} s that"):
        RolloutConfig(target="kserve", ready_seconds=longest + 1, **engine)


def test_a_runtime_of_ones_own_may_let_a_server_start_for_longer():
    assert RolloutConfig(target="kserve", ready_seconds=9000, kserve=KServeConfig(runtime="slow"))
    assert RolloutConfig(ready_seconds=9000)


def test_a_name_must_fit_into_kserves_labels():
    assert RolloutConfig(target="kserve", service="a" * 37)
    assert RolloutConfig(service="a" * 38)
    with pytest.raises(ValidationError, match="longer than the 37 characters"):
        RolloutConfig(target="kserve", service="a" * 38)


@pytest.mark.parametrize(
    "releases", ["sftp://user:word@host/x", "gs://bucket/x/", "gs://bucket/x?key=1", "bucket/x", "https://host/x"]
)
def test_an_address_that_holds_a_secret_or_cannot_be_written_to_is_refused(releases):
    with pytest.raises(ValidationError, match="releases"):
        KServeConfig(releases=releases)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_replicas": 2, "replicas": 2, "prometheus": "http://p:9090"}, r"max_replicas 2 must be above replicas"),
        ({"max_replicas": 2}, "max_replicas needs prometheus"),
        ({"prometheus": "http://p:9090"}, "prometheus is for max_replicas"),
        ({"requests_per_replica": 3}, "requests_per_replica is for max_replicas"),
        ({"max_replicas": 2, "prometheus": "http://user:word@p:9090"}, "String should match"),
    ],
)
def test_scaling_is_set_whole_or_not_at_all(changes, words):
    with pytest.raises(ValidationError, match=words):
        KServeConfig(**changes)


@pytest.mark.parametrize(
    ("target", "words"), [("local", "set target: kserve"), ("kserve", r"set rollout\.kserve\.gpus")]
)
def test_vllm_needs_a_gpu(target, words):
    serving = {"engine": "vllm", "precision": "bf16"}
    with pytest.raises(ValidationError, match=f"engine vllm needs a GPU; {words}"):
        RolloutConfig(target=target, serving=serving)
    assert RolloutConfig(target="kserve", serving=serving, kserve=KServeConfig(gpus=1))


def test_settings_that_were_in_force_are_read_as_they_are():
    """A check that came later must not keep a rollout from what is live."""
    made = RolloutConfig(target="kserve", kserve=KServeConfig(gpus=1), serving={"engine": "vllm", "precision": "bf16"})
    assert as_recorded(made.model_dump(mode="json")) == made
    noted = made.model_dump(mode="json") | {"stages": [0], "dropped_since": 1}
    assert as_recorded(noted).stages == [0] and as_recorded({"service": "chat"}).kserve == KServeConfig()
