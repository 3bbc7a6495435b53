"""What is written into the cluster, and read back from it."""

from __future__ import annotations

import re

import pytest

from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve import objects
from components.rollout.kserve.objects import Record, WentLive, read_record
from serving.release import ServingForm

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def config(strategy="surge", **changes) -> RolloutConfig:
    return RolloutConfig(target="kserve", service="chat", strategy=strategy, kserve=KServeConfig(**changes))


def predictor(**changes):
    return objects.inference_service(config(**changes), "serving", OLD, {})["spec"]["predictor"]


def test_an_inference_service_is_of_one_release():
    made = objects.inference_service(config(), "serving", OLD, {"run": "r1", "commit": ""})
    metadata = made["metadata"]
    assert metadata["name"] == "chat-aaaaaaaaaa"
    assert metadata["labels"]["slipway.dev/release"] == "aaaaaaaaaa"
    assert metadata["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert metadata["annotations"]["slipway.dev/digest"] == OLD
    assert metadata["annotations"]["slipway.dev/run"] == "r1"
    assert "slipway.dev/commit" not in metadata["annotations"]  # what is not known is not said
    assert made["spec"]["predictor"]["model"]["storageUri"] == "gs://slipway/releases/" + "a" * 64


def test_names_fit_into_a_label():
    service = RolloutConfig(service="s" * 40).service
    assert len(objects.backend_of(objects.name_of(service, OLD))) <= 63


def test_memory_and_gpus_are_reserved_and_processor_time_has_no_limit():
    resources = predictor(cpu="500m", memory="4Gi", gpus=2)["model"]["resources"]
    assert resources["requests"] == {"cpu": "500m", "memory": "4Gi", "nvidia.com/gpu": "2"}
    assert resources["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "2"}


def test_steps_make_room_for_servers():
    assert predictor()["priorityClassName"] == "slipway-serving"


def test_no_autoscaler_changes_the_number_of_pods():
    made = objects.inference_service(config(replicas=3), "serving", OLD, {})
    assert made["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "none"
    assert made["spec"]["predictor"]["minReplicas"] == made["spec"]["predictor"]["maxReplicas"] == 3


def test_vllm_gets_the_gpus_and_our_server_stands_before_it():
    kserve = KServeConfig(gpus=2, image="registry/slipway-serving@sha256:" + "0" * 64)
    serving = ServingForm(engine="vllm", precision="bf16")
    config = RolloutConfig(target="kserve", serving=serving, drain_seconds=7, kserve=kserve)
    made = objects.inference_service(config, "serving", NEW, {})["spec"]["predictor"]
    assert made["model"]["runtime"] == "slipway-gpu"
    assert made["model"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert made["model"]["env"] == [{"name": "SLIPWAY_GPUS", "value": "2"}] and "image" not in made["model"]
    drain = {"name": "SLIPWAY_DRAIN_SECONDS", "value": "7"}
    assert made["containers"] == [{"name": objects.FRONT, "env": [drain], "image": kserve.image}]


@pytest.mark.parametrize(
    ("names", "server"),
    [(["kserve-container"], "kserve-container"), (["kserve-container", "transformer-container"], objects.FRONT)],
)
def test_our_server_is_what_stands_before(names, server):
    assert objects.server_of(names) == server


def test_keda_makes_more_pods_by_the_load_of_this_release():
    kserve = KServeConfig(replicas=2, max_replicas=6, prometheus="http://prometheus:9090", requests_per_replica=4)
    made = objects.inference_service(RolloutConfig(target="kserve", kserve=kserve), "space", NEW, {})
    predictor = made["spec"]["predictor"]
    assert made["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "keda"
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 6)
    (metric,) = predictor["autoScaling"]["metrics"]
    assert metric["external"]["target"] == {"type": "Value", "value": "4"}
    query = metric["external"]["metric"]["query"]
    gauges = re.findall(r"sum\((\w+)\{([^}]*)\}\)", query)
    assert [gauge for gauge, _ in gauges] == ["slipway_requests_running", "slipway_queue_depth"]
    pods = f'namespace="space",pod=~"{objects.name_of("energy-chat", NEW)}-predictor-.*"'
    assert [where for _, where in gauges] == [pods, pods]


def test_the_gauges_that_keda_asks_for_are_the_servers():
    from serving import metrics

    named = {metric.describe()[0].name for metric in (metrics.RUNNING, metrics.WAITING)}
    assert named == {"slipway_requests_running", "slipway_queue_depth"}


def test_what_is_not_set_is_left_to_the_runtime():
    assert not {"nodeSelector", "tolerations"} & predictor().keys()
    assert "image" not in predictor()["model"]
    image = "r/serving@sha256:" + "0" * 64
    placed = predictor(image=image, node_selector={"gpu": "l4"}, tolerations=[{"key": "gpu", "operator": "Exists"}])
    assert placed["model"]["image"] == image
    assert placed["nodeSelector"] == {"gpu": "l4"} and placed["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_a_server_is_told_how_long_it_may_drain():
    assert predictor()["model"]["env"] == [{"name": "SLIPWAY_DRAIN_SECONDS", "value": "120"}]
    assert predictor()["terminationGracePeriodSeconds"] > 120


def test_where_there_is_room_for_one_pods_are_not_made_beside_each_other():
    made = objects.inference_service(config(strategy="replace"), "serving", OLD, {})
    assert made["spec"]["predictor"]["deploymentStrategy"] == {"type": "Recreate"}


def test_a_route_gives_shares_and_leaves_nothing_out_but_zero():
    made = objects.route(config(), "serving", Record(stable=OLD), {OLD: 90, NEW: 10, "sha256:" + "c" * 64: 0})
    assert objects.weights_of(made) == {"chat-aaaaaaaaaa-predictor": 90, "chat-bbbbbbbbbb-predictor": 10}
    assert made["spec"]["parentRefs"][0] | {"group": ""} == {
        "group": "",
        "kind": "Gateway",
        "namespace": "slipway-system",
        "name": "slipway",
    }
    assert "hostnames" not in made["spec"] and "resourceVersion" not in made["metadata"]


def test_a_route_without_shares_is_attached_to_nothing():
    made = objects.route(config(), "serving", Record(), {}, version="7")
    assert not objects.has_traffic(made) and objects.weights_of(made) == {}
    assert made["metadata"]["resourceVersion"] == "7"


def test_a_service_that_is_out_keeps_its_address_and_leads_to_nobody():
    made = objects.route(config(hostname="chat.test"), "serving", Record(stable=OLD), {})
    (backend,) = made["spec"]["rules"][0]["backendRefs"]
    assert backend["name"] == objects.NOBODY and made["spec"]["hostnames"] == ["chat.test"]
    assert not objects.has_traffic(made) and objects.weights_of(made) == {}
    assert objects.takes(made, objects.Address("slipway-system/slipway", "chat.test"))


def test_a_hostname_is_the_only_one_that_is_taken():
    assert objects.route(config(hostname="chat.test"), "serving", Record(), {OLD: 100})["spec"]["hostnames"] == [
        "chat.test"
    ]


def test_weights_are_read_as_the_gateway_api_means_them():
    rules = [
        {"backendRefs": [{"name": "a"}, {"name": "b", "weight": 0}]},
        {"backendRefs": [{"name": "a", "weight": 3}]},
        {},
    ]
    assert objects.weights_of({"spec": {"rules": rules}}) == {"a": 4}
    assert objects.weights_of(None) == {}


def test_a_record_survives_the_cluster():
    record = Record(
        stable=OLD,
        candidate=NEW,
        stopped=OLD,
        state="watching 10 %",
        reason="why",
        since="2026-01-01T00:00:00Z",
        history=(WentLive(OLD, "2026-01-01T00:00:00Z", "run-1"),),
        config={"service": "chat"},
    )
    made = objects.route(config(), "serving", record, {OLD: 100})
    assert read_record(made) == record
    assert read_record(None) == Record()


def test_the_history_keeps_the_newest():
    entries = tuple(WentLive(f"sha256:{number}", "", "") for number in range(30))
    kept = read_record(objects.route(config(), "serving", Record(history=entries), {})).history
    assert kept == entries[-20:]


def test_the_release_before_is_the_last_other_one():
    entries = tuple(WentLive(digest, "", "") for digest in (NEW, OLD, OLD))
    assert Record(stable=OLD, history=entries).previous == NEW
    assert Record(stable=OLD, history=entries[1:]).previous is None


@pytest.mark.parametrize("value", ["{", '[{"what": 1}]'])
def test_an_annotation_that_a_person_has_broken_is_named(value):
    with pytest.raises(ValueError, match=r"slipway\.dev/history"):
        read_record({"metadata": {"annotations": {"slipway.dev/history": value}}})


def test_an_event_names_its_object_and_fits_the_api():
    route = objects.route(config(), "serving", Record(), {}) | {
        "metadata": {"name": "chat", "namespace": "s", "uid": "u"}
    }
    made = objects.event(route, "Live", "x" * 5000, "2026-01-01T00:00:00Z", "1", warning=True)
    assert made["involvedObject"]["uid"] == "u" and made["involvedObject"]["kind"] == "HTTPRoute"
    assert made["type"] == "Warning" and len(made["message"]) == 1024
