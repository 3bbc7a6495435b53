"""The step from artifacts to live.json, and the command line's functions, with fake servers behind the real front."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from components.rollout import deliver, local
from components.rollout.config import RolloutConfig
from components.rollout.local import LocalTarget, process_id
from components.rollout.target import ChampionMoved, Origin, RolloutBusy, RolloutFailed, TargetError
from components.step_config import InputError
from pipelines.trace import trace_release


def test_first_rollout_then_the_next_then_back(place, capsys):
    first, second = place.release("first"), place.release("second")
    assert place.live() is None
    record = place.roll(first)
    assert record["action"] == "rolled out" and record["previous"] is None and record["run_id"] == "run-1"
    assert record["url"] == f"http://127.0.0.1:{place.config.port}"
    place.settled_on(place.digest(first))
    assert httpx.get(f"{record['url']}/health").json()["release"] == place.digest(first)

    record = place.roll(second)
    assert record["action"] == "rolled out" and record["previous"] == place.digest(first)
    place.settled_on(place.digest(second))
    attested = place.store.attestations(place.digest(second)) / "rollout.json"
    assert json.loads(attested.read_text())["run_id"] == "run-1"

    assert deliver.back(place.store, commands=place.commands)["digest"] == place.digest(first)
    place.settled_on(place.digest(first))
    shortened = place.digest(second).removeprefix("sha256:")[:12]
    assert deliver.back(place.store, shortened, commands=place.commands)["previous"] == place.digest(first)
    place.settled_on(place.digest(second))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(event["does"], event.get("share")) for event in events if event["event"] == "rollout"]
    # a server that is ready at once is not waited for
    told = [step for step in told if step != ("wait", None)]
    alone = [("apply", None), ("open", 100), ("watch", 100), ("watch", 100), ("promote", None)]
    beside = [("open", 50), ("watch", 50), ("watch", 50), ("open", 100), ("watch", 100), ("watch", 100)]
    assert told[: len(alone)] == alone
    second_rollout = told[told.index(("done", None)) + 1 :]
    assert second_rollout[:8] == [alone[0], *beside, ("promote", None)]


def test_a_return_and_a_restart_keep_where_a_release_comes_from(place):
    first, second = place.release("first"), place.release("second")
    place.run = place.run.model_copy(update={"name": "laptop", "commit": "c0ffee"})
    place.roll(first)
    path = place.store.attestations(place.digest(first)) / "rollout.json"
    origin = json.loads(path.read_text())
    path.write_text(json.dumps(origin | {"at": "2026-01-01T00:00:00+00:00", "live_since": "2026-01-01T00:00:00+00:00"}))
    place.run = place.run.model_copy(update={"run_id": "run-2"})
    place.roll(second)

    returned = deliver.back(place.store, commands=place.commands)
    kept = json.loads(path.read_text())
    assert {key: kept[key] for key in ("run", "run_id", "commit")} == {
        "run": "laptop",
        "run_id": "run-1",
        "commit": "c0ffee",
    }
    assert kept["at"].startswith("2026-01-01") and kept["live_since"] > kept["at"] and returned == kept
    assert [entry.run_id for entry in place.target().state().history] == ["run-1", "run-2", "run-1"]
    assert trace_release(place.store, place.digest(first))["run"] == "run-1"

    deliver.down(place.store)
    started = deliver.back(place.store, place.digest(first), commands=place.commands)
    assert started["action"] == "started again" and started["live_since"] == kept["live_since"]
    assert json.loads(path.read_text()) == kept


def test_a_return_is_by_the_settings_of_the_release_at_the_port_of_the_service(place):
    first, second = place.release("first"), place.release("second")
    patient = place.config.model_copy(update={"ready_seconds": 30, "stages": [10, 100]})
    hasty, place.config = place.config, patient
    place.roll(first)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    place.config = hasty.model_copy(update={"port": port})
    place.roll(second)
    deliver.back(place.store, commands=place.commands)
    assert local.configuration(place.store) == patient.model_copy(update={"port": port})
    place.settled_on(place.digest(first))


def test_a_release_that_went_live_before_its_settings_were_noted_returns_by_the_last_ones(place):
    first, second = place.release("first"), place.release("second")
    place.roll(first)
    path = place.store.root / "local/chat/state.json"
    state = json.loads(path.read_text())
    del state["history"][0]["config"]
    path.write_text(json.dumps(state))
    place.config = place.config.model_copy(update={"ready_seconds": 5})
    place.roll(second)
    deliver.back(place.store, commands=place.commands)
    assert local.configuration(place.store) == place.config
    place.settled_on(place.digest(first))


def test_a_rollout_that_cannot_be_recorded_says_that_the_release_is_live(place):
    release = place.release("first")
    in_the_way = place.store.attestations(place.digest(release))
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no folder")
    with pytest.raises(TargetError, match=rf"could not be recorded in .*\. {place.digest(release)} is live$"):
        place.roll(release)
    place.settled_on(place.digest(release))
    in_the_way.unlink()
    place.roll(release)
    assert json.loads((in_the_way / "rollout.json").read_text())["run_id"] == "run-1"


def test_an_old_release_that_cannot_be_removed_does_not_fail_the_rollout(place, monkeypatch, capsys):
    first, second = place.release("first"), place.release("second")
    place.roll(first)

    def refuse(*_):
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(local.processes, "stop", refuse)
        assert place.roll(second)["action"] == "rolled out"
    assert place.live() == place.digest(second) and place.running() == {place.digest(first), place.digest(second)}
    assert "it is not removed: not yours; the next rollout tries again" in capsys.readouterr().out
    place.roll(second)
    place.settled_on(place.digest(second))


def test_logs_of_removed_servers_are_kept_for_the_last_five_only(place):
    releases = [place.release("first"), place.release("second")]
    place.roll(releases[0])
    logs = place.store.root / "local/chat/logs"
    for number in range(9):
        (logs / f"0123456789ab-{number}.log").write_text("an old one")
        os.utime(logs / f"0123456789ab-{number}.log", (number, number))
    place.roll(releases[1])
    kept = {path.name for path in logs.iterdir()}
    assert len(kept) == 5 + 2  # one server runs, and the front
    assert {f"0123456789ab-{number}.log" for number in (5, 6, 7, 8)} < kept
    assert {Path(server.log).name for server in place.target().state().servers.values()} < kept


def test_the_log_of_a_front_is_set_aside_when_it_has_grown(place, monkeypatch):
    release = place.release("first")
    place.roll(release)
    log = place.target()._front_log()
    deliver.down(place.store)
    log.write_text("long ago\n" * 100)
    place.roll(release)
    assert "long ago" in log.read_text()
    deliver.down(place.store)
    monkeypatch.setattr(local, "_FRONT_LOG_BYTES", 500)
    place.roll(release)
    assert "long ago" not in log.read_text()
    assert "long ago" in log.with_name(f"{log.name}.1").read_text()


def test_a_server_drains_as_long_as_the_rollout_waits_for_it(place):
    release = place.release("first")
    place.config = place.config.model_copy(update={"drain_seconds": 2.5})
    place.roll(release)
    state = place.target().state()
    for process in (*state.servers.values(), *state.fronts.values()):
        assert psutil.Process(process.pid).environ()["SLIPWAY_DRAIN_SECONDS"] == "3"


def test_the_longest_answer_on_two_cores_is_not_cut_off_by_default(place):
    assert type(place.config)().drain_seconds == 120


def test_the_same_release_again_changes_nothing(place):
    release = place.release("first")
    place.roll(release)
    before = place.target().state().servers
    record = place.roll(release)
    assert record["action"] == "already live"
    assert place.target().state().servers == before
    attested = place.store.attestations(place.digest(release)) / "rollout.json"
    assert json.loads(attested.read_text())["action"] == "rolled out"


@pytest.mark.parametrize("dead", ["server", "front", "both"])
def test_a_live_release_whose_processes_died_is_started_again(place, dead):
    release = place.release("first")
    place.roll(release)
    state = place.target().state()
    victims = {"server": list(state.servers.values()), "front": list(state.fronts.values())}
    for victim in victims.get(dead, victims["server"] + victims["front"]):
        os.kill(victim.pid, signal.SIGKILL)
    assert place.live() == place.digest(release)
    assert place.roll(release)["action"] == "started again"
    place.settled_on(place.digest(release))


def test_a_live_release_whose_server_runs_and_does_not_answer_is_started_again(served):
    place, good = served
    server = place.target().state().servers[place.digest(good)]
    os.kill(server.pid, signal.SIGSTOP)
    assert place.roll(good)["action"] == "started again"
    place.settled_on(place.digest(good))
    assert place.target().state().servers[place.digest(good)].pid != server.pid


def test_a_front_that_runs_and_does_not_answer_is_started_again(served):
    place, good = served
    front = place.target().state().fronts[str(place.config.port)]
    os.kill(front.pid, signal.SIGSTOP)
    assert place.roll(good)["action"] == "started again"
    place.settled_on(place.digest(good))


def test_an_answer_that_outlasts_the_drain_is_cut_off_and_said(place, capsys):
    first, second = place.release("first", "stuck"), place.release("second")
    place.config = place.config.model_copy(update={"drain_seconds": 1})
    url = place.roll(first)["url"]
    question = {"model": "chat", "messages": [{"role": "user", "content": "a story"}]}
    asker = threading.Thread(target=lambda: httpx.post(f"{url}/v1/chat/completions", json=question, timeout=20))
    asker.start()
    while not place.target()._in_flight(place.target().observe().stable.url):
        time.sleep(0.02)
    place.roll(second)
    place.settled_on(place.digest(second))
    asker.join()
    assert '"event": "cut_off"' in capsys.readouterr().out


def test_a_front_that_cannot_start_leaves_nothing_and_says_why(place):
    place.commands = replace(
        place.commands, front=lambda *_: [sys.executable, "-S", "-c", "raise SystemExit('broken')"]
    )
    with pytest.raises(RolloutFailed, match=r"the front ended; .*front-\d+\.log ends: broken"):
        place.roll(place.release("first"))
    assert place.live() is None and place.running() == set()


def test_after_down_the_next_rollout_starts_what_was_live(place):
    release = place.release("first")
    place.roll(release)
    stopped = deliver.down(place.store)
    assert stopped == [f"front at port {place.config.port}", f"server of {place.digest(release)}"]
    assert place.live() == place.digest(release) and place.running() == set()
    assert deliver.status(place.store)["serving"] is False
    assert deliver.down(place.store) == []
    assert place.roll(release)["action"] == "started again"
    place.settled_on(place.digest(release))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("wrong", r"golden answer 1 .*: token 2 is 13, expected is 12"),
        ("never", "not ready within 3 s"),
        ("crash", r"its server ended with code 1; .*cannot read the weights"),
        ("hangs", "no answer within 3 s"),
        ("crash_later", "golden answer 1"),
        ("impostor", "says that it serves sha256:0"),
        ("sick_live", "HTTP 500.*out of memory"),
        # bad only when they are watched
        ("forgets", r"its server restarted: it has counted \d requests after 3"),
        ("uncounted", r"its requests cannot be counted: the metrics of http://\S+ cannot be read: .*500"),
    ],
)
def test_a_bad_candidate_is_removed_and_the_old_one_stays(served, behaviour, reason):
    place, good = served
    with pytest.raises(RolloutFailed, match=reason) as failure:
        place.roll(place.release(behaviour, behaviour))
    assert str(failure.value).endswith(f"{place.digest(good)} is live.")
    place.settled_on(place.digest(good))


@pytest.mark.parametrize("behaviour", ["wrong", "crash", "sick_live"])
def test_after_a_bad_first_candidate_nothing_is_live_and_a_good_one_can_follow(place, behaviour):
    with pytest.raises(RolloutFailed, match="nothing is live"):
        place.roll(place.release("bad", behaviour))
    assert place.live() is None and place.running() == set()
    good = place.release("good")
    place.roll(good)
    place.settled_on(place.digest(good))


def test_errors_of_real_requests_roll_a_candidate_back(place):
    """Its golden answers are right, at its own address; what comes through the front fails."""
    good, bad = place.release("good"), place.release("bad", "sick_live")
    url = place.roll(good)["url"]
    place.config = place.config.model_copy(update={"min_requests": 200, "max_error_rate": 0.02})
    done = threading.Event()

    def ask():
        question = {"model": "chat", "messages": [{"role": "user", "content": "question 0"}]}
        with httpx.Client(base_url=url, timeout=10) as client:
            while not done.is_set():
                client.post("/v1/chat/completions", json=question)
                time.sleep(0.01)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        with pytest.raises(RolloutFailed, match=r"\d+ of \d+ requests failed, of the stable release's 0 of \d+"):
            place.roll(bad)
    finally:
        done.set()
        asker.join()
    place.settled_on(place.digest(good))


def test_a_stage_without_enough_requests_is_rolled_back_at_its_deadline(place):
    place.roll(place.release("good"))
    place.config = place.config.model_copy(update={"min_requests": 100_000, "stage_seconds": 1})
    with pytest.raises(RolloutFailed, match=r"it answered \d+ of 100000 requests within 1 s"):
        place.roll(place.release("second"))


def test_replace_stops_the_old_one_first_and_tells_how_long_nothing_was_served(place, capsys):
    first, second = place.release("first"), place.release("second", "slow")
    place.roll(first)
    place.config = place.config.model_copy(update={"strategy": "replace"})
    at_most = []
    apply = LocalTarget.apply

    def counting(target, digest, release):
        at_most.append(place.running())
        apply(target, digest, release)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalTarget, "apply", counting)
        record = place.roll(second)
    assert at_most == [set()]
    place.settled_on(place.digest(second))
    assert 1 <= record["outage_seconds"] < 20  # it is ready after a second
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["does"] for event in told if event["event"] == "rollout" and event["does"] == "stop"] == ["stop"]
    assert deliver.status(place.store)["state"]["state"] == "live"


def test_replace_starts_the_old_one_again_when_the_new_one_is_bad(place):
    first = place.release("first")
    place.roll(first)
    place.config = place.config.model_copy(update={"strategy": "replace"})
    with pytest.raises(RolloutFailed, match=r"token 2 is 13.*Nothing was served for \d+\.\d s\. .* is live\.$"):
        place.roll(place.release("bad", "wrong"))
    place.settled_on(place.digest(first))


def test_a_slow_candidate_is_waited_for(place):
    release = place.release("slow", "slow")
    place.roll(release)
    place.settled_on(place.digest(release))


def test_a_dead_old_release_serves_again_before_a_bad_candidate_is_refused(place):
    good, bad = place.release("good"), place.release("bad", "wrong")
    place.roll(good)
    deliver.down(place.store)
    with pytest.raises(RolloutFailed, match=r"is live\.$"):
        place.roll(bad)
    place.settled_on(place.digest(good))


def test_an_old_release_that_cannot_start_again_does_not_block_a_good_one(place):
    old, new = place.release("old"), place.release("new")
    place.roll(old)
    deliver.down(place.store)
    (place.store.release(place.digest(old)) / "golden.json").unlink()
    place.roll(new)
    place.settled_on(place.digest(new))


def test_no_request_is_lost_while_releases_change(place):
    first, second = place.release("first"), place.release("second")
    url = place.roll(first)["url"]
    done, seen, failed = threading.Event(), set(), []

    def ask():
        question = {"model": "chat", "messages": [{"role": "user", "content": "question 0"}]}
        with httpx.Client(base_url=url, timeout=10) as client:
            while not done.is_set():
                try:
                    reply = client.post("/v1/chat/completions", json=question)
                    seen.add(reply.headers.get("x-slipway-release"))
                    if reply.status_code != 200:
                        failed.append(reply.text)
                except httpx.HTTPError as error:
                    failed.append(repr(error))
                count[0] += 1

    count = [0]
    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    place.roll(second)
    deliver.back(place.store, commands=place.commands)
    place.roll(second)
    done.set()
    for asker in askers:
        asker.join()
    assert failed == [] and count[0] > 100
    assert seen == {place.digest(first), place.digest(second)}


def test_two_rollouts_at_once_one_is_told_who_holds_it(place):
    release = place.release("first")
    target = place.target()
    target._origin = Origin(run="laptop")
    with target.hold():
        with pytest.raises(RolloutBusy, match=rf"chat is being changed by process {os.getpid()}, run laptop, since 20"):
            place.roll(release)
        assert place.target().held_by()["run"] == "laptop"
        with pytest.raises(RolloutBusy):
            place.roll(release)
    assert place.target().held_by() is None
    place.roll(release)


def test_a_foreign_program_at_the_public_port_is_named(place):
    with socket.create_server(("127.0.0.1", place.config.port)):
        with pytest.raises(TargetError, match=rf"port {place.config.port} is in use"):
            deliver.refuse_early(place.store, place.config)
        with pytest.raises(RolloutFailed, match=r"end that program .*, or set rollout\.port") as failure:
            place.roll(place.release("first"))
        assert str(os.getpid()) in str(failure.value) or sys.platform != "linux"
    assert place.live() is None and place.running() == set()


def test_the_public_port_can_change_between_rollouts(place):
    first, second = place.release("first"), place.release("second")
    place.roll(first)
    old_port = place.config.port
    with socket.create_server(("127.0.0.1", 0)) as server:
        place.config = place.config.model_copy(update={"port": server.getsockname()[1]})
    place.roll(second)
    place.settled_on(place.digest(second))
    assert list(place.target().state().fronts) == [str(place.config.port)]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{old_port}/front/health")


def test_what_the_gate_did_not_compare_with_is_not_replaced(place):
    first, second = place.release("first"), place.release("second")
    place.roll(first)
    with pytest.raises(ChampionMoved, match=r"is live now, but the gate compared .* with nothing live"):
        place.roll(second, expected=None)
    with pytest.raises(ChampionMoved, match="with sha256:gone; run the pipeline again"):
        place.roll(second, expected="sha256:gone")
    place.settled_on(place.digest(first))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "fail", "reason": "worse"}, "the verdict is fail, not pass: worse"),
        ({"verdict": "inconclusive"}, "the verdict is inconclusive"),
        ({"challenger": "sha256:other"}, "the verdict is about sha256:other"),
        ({"champion": "sha256:other"}, "the gate compared with sha256:other, the run found nothing live"),
    ],
)
def test_a_decision_that_does_not_permit_this_release_is_refused(place, changes, words):
    release = place.release("first")
    artifacts = place.verdict(release, None, **changes)
    with pytest.raises(InputError, match=words):
        deliver.deliver(place.run, place.config, release, *artifacts, commands=place.commands)
    assert place.live() is None


def test_a_damaged_release_is_refused_before_anything_is_started(place):
    release = place.release("first")
    artifacts = place.verdict(release, None)
    (release / "release/weights").write_text("other")
    with pytest.raises(deliver.ReleaseError, match="weights has sha256"):
        deliver.deliver(place.run, place.config, release, *artifacts, commands=place.commands)
    assert not place.store.release(place.digest(release)).exists()


def test_a_damaged_copy_in_the_store_is_replaced_by_the_good_one(place):
    release = place.release("first")
    copy = deliver.adopt(place.store, release / "release", place.digest(release))
    (copy / "weights").unlink()
    assert deliver.adopt(place.store, release / "release", place.digest(release)) == copy
    deliver.verify(place.store, place.digest(release), place.config)
    assert [path.name for path in place.store.releases.iterdir() if path.is_dir()] == [copy.name]


def test_going_back_needs_something_to_go_back_to(place):
    with pytest.raises(InputError, match="no service was rolled out"):
        deliver.back(place.store)
    release = place.release("first")
    place.roll(release)
    with pytest.raises(InputError, match="nothing was live before sha256"):
        deliver.back(place.store)
    with pytest.raises(InputError, match="no such release is in the store"):
        deliver.back(place.store, "sha256:0123")
    with pytest.raises(InputError, match=r"no chatter was rolled out from .*; known are chat"):
        deliver.back(place.store, asked=RolloutConfig(service="chatter"))


def test_going_back_to_a_release_that_is_gone_is_refused(place):
    first, second = place.release("first"), place.release("second")
    place.roll(first)
    place.roll(second)
    shutil.rmtree(place.store.release(place.digest(first)))
    with pytest.raises(InputError, match="damaged or missing"):
        deliver.back(place.store, commands=place.commands)
    place.settled_on(place.digest(second))


def test_status_tells_what_serves(place):
    release = place.release("first")
    place.roll(release)
    status = deliver.status(place.store)
    assert status["live"] == place.digest(release) and status["serving"] and status["held_by"] is None
    assert status["instances"][0]["role"] == "stable" and status["instances"][0]["state"] == "ready"
    assert process_id(place.target().state().servers[place.digest(release)]) == status["instances"][0]["pid"]
    assert [entry["run_id"] for entry in status["history"]] == ["run-1"]
    assert status["instances"][0]["run_id"] == "run-1" and status["state"]["state"] == "live"


def test_state_that_cannot_be_read_is_reported_in_words(place):
    directory = place.root / "store/local/chat"
    directory.mkdir(parents=True)
    (directory / "state.json").write_text('{"version": 2}')
    with pytest.raises(TargetError, match=r"state\.json cannot be read"):
        place.live()
    (directory / "state.json").unlink()


def test_a_recycled_process_id_is_never_signalled(place):
    release = place.release("first")
    place.roll(release)
    target = place.target()
    state = target.state()
    server = state.servers[place.digest(release)]
    os.kill(server.pid, signal.SIGKILL)
    # Another process has the id now: this one, say.
    state.servers[place.digest(release)] = server.model_copy(update={"pid": os.getpid()})
    target._save(state)
    assert place.running() == set()
    assert deliver.down(place.store) == [f"front at port {place.config.port}"]
    time.sleep(0.05)  # a signal would have ended this process
