"""Whatever goes wrong while a release is rolled out, exactly the old or the new one is live at the end, and says why.

One service whose old release is live goes through all of it. Each test leaves a line for docs/rollout.md (faults.py).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.rollout import deliver
from components.rollout.target import ChampionMoved, RolloutFailed, TargetError
from manifests.rights import read_base
from tests.cluster import images
from tests.cluster.faults import Line, ProxyWithout, Table, faulty_image
from tests.cluster.faulty_proxy import FaultyProxy
from tests.cluster.harness import Cluster, wait
from tests.cluster.load import load
from tests.cluster.rolling import Rolling
from tests.cluster.service import NAMESPACE, Service, digest_of
from tests.components.rollout.kserve.fake_api import Fault
from tests.components.rollout.test_real_server import make_artifact

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

READY_SECONDS = 90
"""A good release needs ten of them; on two cores that build something else at the same time, more."""

SHORT: dict[str, Any] = {"ready_seconds": READY_SECONDS, "stage_seconds": 20, "answer_seconds": 5}
LOOKED_AT: dict[str, Any] = SHORT | {"min_requests": 20, "stage_seconds": 60}
"""Makes a stage ten seconds long at least, so that `meanwhile` sees it: two requests a second are replayed, fewer on a
machine that is busy."""

_ENDINGS = (RolloutFailed, TargetError, ChampionMoved)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The old release and the new one."""
    root = tmp_path_factory.mktemp("releases")
    return [make_artifact(root / name, "openvino", seed) for seed, name in enumerate(("old", "new"))]


@pytest.fixture(scope="module")
def served(cluster: Cluster, artifacts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment().items():
            patch.setenv(name, value)
        made = Service(cluster, tmp_path_factory.mktemp("service"))
        made.config = made.config_with({"image": images.build("serving", cluster.place)}, drain_seconds=3)
        yield made
        made.remove()


@pytest.fixture
def service(served: Service, artifacts: list[Path]) -> Service:
    """The service with the old release live, whatever the test before has left."""
    served.roll(artifacts[0])
    served.settled_on(digest_of(artifacts[0]))
    return served


@pytest.fixture
def proxy(cluster: Cluster, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The rollout speaks to the API server through this."""
    made = FaultyProxy(cluster.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path / "kubeconfig")))
    yield made
    made.close()


@pytest.fixture(scope="module")
def table(cluster: Cluster) -> Table:
    return Table(cluster.place)


class Ended:
    """How a rollout ended, and how long that took."""

    reason = ""
    seconds = 0.0


@contextmanager
def measured(within: float) -> Iterator[Ended]:
    """Runs a rollout that may fail, and takes no longer than `within`."""
    ended, begin = Ended(), time.monotonic()
    try:
        yield ended
    except _ENDINGS as error:
        ended.reason = str(error)
    ended.seconds = time.monotonic() - begin
    assert ended.seconds < within, f"{ended.seconds:.0f} s, and not within {within:g}: {ended.reason}"


def answers(service: Service) -> str:
    """The release that answers at the public address."""
    reply = service.ask()
    assert reply.status_code == 200, reply.text
    return reply.json()["release"]


@contextmanager
def meanwhile(service: Service, state: str, act: Callable[[], object]) -> Iterator[None]:
    """Act once the route says that the rollout is in this state; a test in which nothing was done fails."""

    def follow() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            route = service.cluster.get("httproute", service.name, "-n", NAMESPACE)
            if route["metadata"]["annotations"].get("slipway.dev/state") == state:
                act()
                return
            time.sleep(0.2)
        raise AssertionError(f"the route was never seen in the state {state}, so nothing was done to it")

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(follow)
        yield
    acting.result()


# --------------------------------------------------------------------------------------- a bad candidate


@pytest.mark.parametrize(
    ("name", "fault", "words", "within"),
    [
        ("crash loop", "crashes", "this server never starts", 60),
        pytest.param(
            "never ready",
            "unready",
            rf"not ready within {READY_SECONDS} s: .*not answer /health",
            READY_SECONDS + 60,
            marks=pytest.mark.full,
        ),
        ("out of memory", "memory", "more memory than its limit", 90),
        ("golden answers differ", "differs", r"golden answer 1 .*: token \d+ is \d+, expected is \d+", 120),
        pytest.param("slow: an answer takes a minute", "slow", "no answer within 5 s", 120, marks=pytest.mark.full),
        ("hangs after it was ready", "hangs", "no answer within 5 s|does not answer|not ready", 150),
        pytest.param("answers no more, /health does", "stuck", "no answer within 5 s", 150, marks=pytest.mark.full),
        pytest.param(
            "ends after it was ready",
            "dies",
            "ended|restarted|again|RemoteProtocolError|HTTP 50",
            150,
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_bad_candidate_is_rolled_back(
    service: Service, artifacts: list[Path], table: Table, name: str, fault: str, words: str, within: float
) -> None:
    old, new = artifacts
    image = faulty_image(service.cluster.place, fault)
    with measured(within) as ended, pytest.raises(RolloutFailed, match=words) as failed:
        service.roll(new, {"image": image}, **SHORT)
    service.settled_on(digest_of(old))
    table.add(Line(name, "old", ended.seconds, str(failed.value)))


def test_errors_under_load_are_rolled_back(
    service: Service, artifacts: list[Path], table: Table, tmp_path: Path
) -> None:
    """Every third answer to real requests is a 500; those to golden prompts are right."""
    old, new = artifacts
    image = faulty_image(service.cluster.place, "errors")
    with load(
        service.cluster.gateway, service.name, tmp_path / "load.json", host=f"{service.name}.test", rate=20
    ) as running:
        running.wait_for(answered=20)
        with measured(150) as ended, pytest.raises(RolloutFailed, match=r"\d+ of \d+ requests failed") as failed:
            service.roll(new, {"image": image}, **SHORT)
        report = running.stop()
    service.settled_on(digest_of(old))
    # They met the candidate, which had a tenth of the traffic for a few seconds, and nothing else failed.
    assert 0 < report.failed < report.sent / 10 and {one.release for one in report.failures} == {digest_of(new)}
    table.add(Line("errors under load", "old", ended.seconds, str(failed.value)))


def test_an_image_that_cannot_be_pulled(service: Service, artifacts: list[Path], table: Table) -> None:
    old, new = artifacts
    image = f"{service.cluster.registry}/slipway-serving@sha256:{'0' * 64}"
    with measured(60) as ended, pytest.raises(RolloutFailed, match=r"cannot be pulled: .*0000: not found") as failed:
        service.roll(new, {"image": image}, **SHORT)
    service.settled_on(digest_of(old))
    table.add(Line("image cannot be pulled", "old", ended.seconds, str(failed.value)))


def test_a_gpu_that_nobody_has(service: Service, artifacts: list[Path], table: Table) -> None:
    old, new = artifacts
    with measured(60) as ended, pytest.raises(RolloutFailed, match=r"not scheduled: .*nvidia\.com/gpu") as failed:
        service.roll(new, {"gpus": 2}, **SHORT | {"ready_seconds": 30})
    service.settled_on(digest_of(old))
    table.add(Line("GPU that no node has free", "old", ended.seconds, str(failed.value)))


def test_more_than_the_namespace_may_hold(service: Service, artifacts: list[Path], table: Table) -> None:
    old, new = artifacts
    with (
        measured(60) as ended,
        pytest.raises(RolloutFailed, match=r"pods are refused .*exceeded quota") as failed,
    ):
        service.roll(new, {"gpus": 100}, **SHORT)
    service.settled_on(digest_of(old))
    table.add(Line("more GPUs than the quota", "old", ended.seconds, str(failed.value)))


# ------------------------------------------------------------------------------- what the cluster refuses


def test_a_webhook_that_refuses(service: Service, artifacts: list[Path], table: Table) -> None:
    old, new = artifacts
    policy = {"name": f"refuse-{service.name}"}
    rule = {"apiGroups": ["serving.kserve.io"], "apiVersions": ["*"], "resources": ["inferenceservices"]}
    condition = f"object.metadata.?labels['slipway.dev/service'].orValue('') != '{service.name}'"
    made = [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": policy,
            "spec": {
                "matchConstraints": {"resourceRules": [rule | {"operations": ["CREATE"]}]},
                "validations": [{"expression": condition, "message": "no releases on a Friday"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": policy,
            "spec": {"policyName": policy["name"], "validationActions": ["Deny"]},
        },
    ]
    service.cluster.apply(made)
    try:
        wait("the policy to be in force", lambda: "Friday" in refusal(service), 30)
        with measured(60) as ended, pytest.raises(_ENDINGS, match="no releases on a Friday") as failed:
            service.roll(new, **SHORT)
        service.settled_on(digest_of(old))
        table.add(Line("admission refuses", "old", ended.seconds, str(failed.value)))
    finally:
        kinds = "validatingadmissionpolicybinding,validatingadmissionpolicy"
        service.cluster.kubectl("delete", kinds, policy["name"])


def refusal(service: Service) -> str:
    """What the API server says to another InferenceService of this service."""
    found = service.cluster.get("inferenceservice", "-n", NAMESPACE, "-l", f"slipway.dev/service={service.name}")
    again = found["items"][0]
    kept = {key: again["metadata"][key] for key in ("namespace", "labels", "annotations")}
    again["metadata"] = kept | {"name": f"{service.name}-probe"}
    again.pop("status", None)
    try:
        service.cluster.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(again))
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("serving.kserve.io", "install its CustomResourceDefinition"),
        ("gateway.networking.k8s.io", "install its CustomResourceDefinition"),
    ],
)
def test_a_kind_that_is_not_installed(
    service: Service,
    artifacts: list[Path],
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    words: str,
) -> None:
    """The API server says so itself: it is asked for a group that it does not have."""
    old, new = artifacts
    without = ProxyWithout(service.cluster.kubeconfig, group)
    spec = service.artifacts(new)
    with monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(without.kubeconfig(tmp_path / "kubeconfig")))
        with measured(60) as ended, pytest.raises(TargetError, match=words) as failed:
            deliver.deliver(service.run, service.config_with(**SHORT), *spec)
    without.close()
    service.settled_on(digest_of(old))
    table.add(Line(f"{group} is not installed", "old", ended.seconds, str(failed.value)))


@pytest.mark.parametrize(
    ("resource", "verb"),
    [
        ("inferenceservices", "create"),
        ("inferenceservices", "delete"),
        ("httproutes", "patch"),
        ("leases", "create"),
        ("pods", "list"),
        ("services/proxy", "create"),
        ("pods/proxy", "get"),
    ],
)
def test_an_account_that_lacks_a_right(
    service: Service,
    artifacts: list[Path],
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    resource: str,
    verb: str,
) -> None:
    old, new = artifacts
    spec = service.artifacts(new)
    if resource == "leases":  # else there is nothing to create
        service.cluster.kubectl("delete", "lease", f"slipway-{service.name}", "-n", NAMESPACE)
    with limited_account(service, tmp_path, resource, verb) as kubeconfig, monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        with measured(120) as ended:
            deliver.deliver(service.run, service.config_with(**SHORT), *spec)
    # Without the right to delete, the replaced release lingers, which the run says; no other right can be missed.
    which = "new" if verb == "delete" else "old"
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    reason = ended.reason or " ".join(one["reason"] for one in told if one.get("does") == "fail")
    assert answers(service) == digest_of({"old": old, "new": new}[which])
    assert resource.partition("/")[0] in reason and ("cannot" in reason or "403" in reason)
    table.add(Line(f"no right to {verb} {resource}", which, ended.seconds, reason))


@contextmanager
def limited_account(service: Service, folder: Path, resource: str, verb: str) -> Iterator[Path]:
    """A kubeconfig of an account that may do what a rollout may, but for one verb."""
    cluster, name = service.cluster, f"limited-{service.name}"
    roles = {one["metadata"]["name"]: one for one in read_base() if one["kind"] == "Role"}
    made: list[dict[str, Any]] = [_object("v1", "ServiceAccount", NAMESPACE, name)]
    for role in ("rollout", "rollout-gateway"):
        space = roles[role]["metadata"]["namespace"]
        rules = [_without(rule, resource, verb) for rule in roles[role]["rules"]]
        group = "rbac.authorization.k8s.io"
        made.append(_object(f"{group}/v1", "Role", space, name) | {"rules": rules})
        made.append(
            _object(f"{group}/v1", "RoleBinding", space, name)
            | {
                "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
            }
        )
    cluster.apply(made)
    token = cluster.kubectl("create", "token", name, "-n", NAMESPACE, "--duration=10m").strip()
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token}
    (folder / "limited").write_text(json.dumps(content))
    try:
        yield folder / "limited"
    finally:
        for one in made:
            cluster.kubectl("delete", one["kind"], name, "-n", one["metadata"]["namespace"])


def _object(version: str, kind: str, namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}


def _without(rule: dict[str, Any], resource: str, verb: str) -> dict[str, Any]:
    kept = [one for one in rule["verbs"] if resource not in rule["resources"] or one != verb]
    return rule | {"verbs": kept or ["deletecollection"]}


# ------------------------------------------------------------------------------------ an API server that fails


@pytest.mark.parametrize("status", [409, 429, 500, 0], ids=["409", "429", "500", "broken connections"])
def test_an_api_server_that_takes_no_change_of_the_route(
    service: Service, proxy: FaultyProxy, artifacts: list[Path], table: Table, status: int
) -> None:
    """From the moment in which the candidate has its first share: nothing can be routed back either."""
    old, new = artifacts

    def stop_writes() -> None:
        proxy.faults = [Fault(lambda method, path: method == "PATCH" and "/httproutes/" in path, status, times=10_000)]

    with meanwhile(service, "watching 10 %", stop_writes), measured(240) as ended:
        service.roll(new, **LOOKED_AT)
    proxy.faults = []
    assert ended.reason and answers(service) in (digest_of(old), digest_of(new))
    left = deliver.finish(service.store, asked=service.config)  # what the janitor does
    which = {digest_of(old): "old", digest_of(new): "new"}[answers(service)]
    service.settled_on(digest_of({"old": old, "new": new}[which]))
    name = f"API server answers {status} to changes" if status else "API server breaks connections at changes"
    table.add(Line(name, f"interrupted, then {which}" if left else which, ended.seconds, ended.reason))


@pytest.mark.full
def test_a_network_that_stays_cut(service: Service, proxy: FaultyProxy, artifacts: list[Path], table: Table) -> None:
    old, new = artifacts
    healed = threading.Event()

    def cut() -> None:
        with proxy.cut():
            healed.wait(400)

    with meanwhile(service, "watching 10 %", cut):
        try:
            with measured(300) as ended:
                service.roll(new, **LOOKED_AT)
            assert ended.reason and answers(service) in (digest_of(old), digest_of(new))
        finally:
            healed.set()
    wait(
        "the lock of the rollout that was cut off to expire",
        lambda: not deliver.status(service.store, service.config)["held_by"],
        60,
    )
    assert deliver.finish(service.store, asked=service.config)
    which = {digest_of(old): "old", digest_of(new): "new"}[answers(service)]
    service.settled_on(digest_of({"old": old, "new": new}[which]))
    table.add(Line("network cut for good", f"interrupted, then {which}", ended.seconds, ended.reason))


# ---------------------------------------------------------------------------------------- other hands


def test_a_person_who_deletes_the_candidate(service: Service, artifacts: list[Path], table: Table) -> None:
    old, new = artifacts
    name = f"{service.name}-{digest_of(new)[7:17]}"
    delete = ["delete", "inferenceservice", name, "-n", NAMESPACE, "--wait=false"]
    acting = meanwhile(service, "watching 10 %", lambda: service.cluster.kubectl(*delete))
    with acting, measured(120) as ended, pytest.raises(_ENDINGS, match="delete") as failed:
        service.roll(new, **SHORT, min_requests=50)
    service.settled_on(digest_of(old))
    table.add(Line("a person deletes the candidate", "old", ended.seconds, str(failed.value)))


def test_a_person_who_edits_the_weights(service: Service, artifacts: list[Path], table: Table) -> None:
    old, new = artifacts
    patch = json.dumps([{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 33}])

    def edit() -> None:
        service.cluster.kubectl("patch", "httproute", service.name, "-n", NAMESPACE, "--type=json", f"--patch={patch}")

    with meanwhile(service, "watching 10 %", edit), measured(180) as ended:
        service.roll(new, **SHORT, min_requests=50)
    assert "somebody else has changed the route" in ended.reason
    service.settled_on(digest_of(old))
    table.add(Line("a person edits the weights", "old", ended.seconds, ended.reason))


def test_a_person_who_deletes_the_route(service: Service, artifacts: list[Path], table: Table) -> None:
    """With it goes the service, and the memory of what is live; the next rollout brings it back."""
    old, new = artifacts
    delete = ["delete", "httproute", service.name, "-n", NAMESPACE]
    acting = meanwhile(service, "watching 10 %", lambda: service.cluster.kubectl(*delete))
    with acting, measured(180) as ended:
        service.roll(new, **SHORT, min_requests=50)
    assert "nothing is live now" in ended.reason and deliver.live(service.store, service.config) is None
    service.roll(old)
    service.settled_on(digest_of(old))
    table.add(Line("a person deletes the route", "nothing until the next rollout", ended.seconds, ended.reason))


# ----------------------------------------------------------------------------------------- killed


def test_two_at_once(service: Service, artifacts: list[Path], table: Table) -> None:
    _, new = artifacts
    begin = time.monotonic()
    both = [Rolling(service, new), Rolling(service, new)]
    reasons = [rolling.wait(240) for rolling in both]
    seconds = time.monotonic() - begin
    assert sorted(reason is None for reason in reasons) == [False, True]
    lost = next(reason for reason in reasons if reason)
    assert "is being changed by process" in lost
    service.settled_on(digest_of(new))
    table.add(Line("two rollouts at once", "new", seconds, lost))


@pytest.mark.full
@pytest.mark.parametrize("after", [0.0, 0.7])
def test_killed_at_every_step(
    service: Service, artifacts: list[Path], table: Table, tmp_path: Path, after: float
) -> None:
    """Begun again each time, and killed at the next step; requests go on all the while."""
    old, new = artifacts
    begin = time.monotonic()
    killed: list[str] = []
    host = f"{service.name}.test"
    with load(service.cluster.gateway, service.name, tmp_path / "load.json", host=host, rate=10) as running:
        running.wait_for(answered=5)
        while step := (rolling := Rolling(service, new)).kill_at_another_than(killed, after):
            killed.append(step)
            assert answers(service) in (digest_of(old), digest_of(new))
        report = running.stop()
    assert rolling.wait(1) is None
    service.settled_on(digest_of(new))
    stages = [f"{does} {share}{end}" for share in (10, 50, 100) for does, end in (("open", ""), ("watch", ""))]
    # Later, a step may be over, and it is killed in the next one.
    assert after or {"apply", *stages, "promote", "remove"} <= set(killed)
    assert report.failed == 0, report.failures
    steps = ", ".join(killed)
    words = f"killed {len(killed)} times ({steps}); {report.sent} requests meanwhile, 0 failed"
    name = f"killed (-9) {after:g} s after every step began, and begun again"
    table.add(Line(name, "new", time.monotonic() - begin, words))
