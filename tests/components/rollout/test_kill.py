"""The rollout process is killed (-9) at every moment that leaves a trace, and whoever comes next makes it whole."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from dataclasses import replace

import httpx
import pytest

from components.rollout import deliver, local, processes
from components.rollout.target import RolloutFailed
from tests.components.rollout.conftest import fake_server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def then(function, moment):
    """The function, and a moment after it; before it nothing has changed since the last one."""

    def wrapped(*arguments, **named):
        result = function(*arguments, **named)
        moment()
        return result

    return wrapped


def in_a_child(act) -> int:
    """Wait status of a child process that does this and no more; one that fails says why and ends with 1.

    Raised any further, its error would reach pytest, of which the child is a copy: it would run the rest of the tests.
    """
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def killed(act) -> bool:
    """Whether the child process that does this was killed at it; one that fails otherwise fails the test."""
    status = in_a_child(act)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child process has said why above"
    return os.WIFSIGNALED(status)


def roll_and_die(place, artifact, at: int | None) -> tuple[bool, int]:
    """Roll out in a child process that kills itself at the n-th moment: (was it killed, moments seen until then).

    A moment is after the announcement of each step, each change of a file, each start and each end of a process; what
    is noted for readers changes nothing that matters.
    """
    read, write = os.pipe()

    def moment():
        os.write(write, b".")
        moment.count += 1
        if moment.count - 1 == at:
            die()

    def act():
        moment.count = 0
        deliver._announce = then(deliver._announce, moment)
        local.write_atomically = then(local.write_atomically, moment)
        processes.start = then(processes.start, moment)
        processes.stop = then(processes.stop, moment)
        local.LocalTarget.note = lambda *_: None
        place.roll(artifact)

    was_killed = killed(act)
    os.close(write)
    with os.fdopen(read, "rb") as seen:
        return was_killed, len(seen.read())


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_child_that_fails_runs_no_other_test(capfd):
    def act():
        raise ValueError("not to be seen by pytest's copy")

    parent = os.getpid()
    status = in_a_child(act)
    assert os.getpid() == parent and os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1
    assert "ValueError: not to be seen" in capfd.readouterr().err


@pytest.mark.parametrize("strategy", ["surge", "replace"])
def test_killed_after_every_moment_and_called_again(served, strategy):
    place, good = served
    place.config = place.config.model_copy(update={"strategy": strategy, "min_requests": 1})
    pair = {place.digest(artifact): artifact for artifact in (good, place.release(f"other-{strategy}"))}
    _, moments = roll_and_die(place, pair[next(digest for digest in pair if digest != place.live())], None)
    assert moments > 15
    outcomes = []
    for at in range(moments):
        old = place.live()
        new = next(digest for digest in pair if digest != old)
        killed, _ = roll_and_die(place, pair[new], at)
        if not killed:  # it ended before: a server that is ready at once is not waited for
            assert at >= moments - 2 and place.live() == new, f"moment {at} was not reached"
            continue

        # Before anybody mends it: one of the two is live, and answers.
        found = place.live()
        assert found in (old, new)
        question = {"messages": [{"role": "user", "content": "question 0"}], "model": "chat"}
        reply = httpx.post(f"{place.target().url}/v1/chat/completions", json=question)
        outage = strategy == "replace" and reply.status_code == 503
        assert outage or (reply.status_code == 200 and reply.headers["x-slipway-release"] in (old, new))

        # Whoever comes next wants the same again, or what was live before.
        wanted = new if at % 2 else old
        place.roll(pair[wanted])
        place.settled_on(wanted)
        outcomes.append(found == new)
    # Once switched, always switched: up to some moment the old one is live, from then on the new one.
    assert outcomes == sorted(outcomes) and set(outcomes) == {False, True}


def roll_and_die_after_the_switch(place, artifact) -> None:
    """A rollout in a child process that ends between the switch and the promotion."""

    def act():
        local.LocalTarget.promote = die
        place.roll(artifact)

    assert killed(act)


def kill_processes(place, *digests) -> None:
    """The servers of these releases and the front, as when the machine is started anew or memory runs out."""
    state = place.target().state()
    for victim in (*(state.servers[digest] for digest in digests), *state.fronts.values()):
        os.kill(victim.pid, signal.SIGKILL)
        while local.process_id(victim):
            time.sleep(0.01)


@pytest.fixture
def switched(place):
    """A rollout of `new` over `old` that was killed after the switch: (place, old, new)."""
    old, new = place.release("old"), place.release("new")
    place.roll(old)
    roll_and_die_after_the_switch(place, new)
    assert place.live() == place.digest(new) and place.target().state().live == place.digest(old)
    return place, old, new


@pytest.mark.parametrize("wanted", ["new", "old", "third"])
@pytest.mark.parametrize("both", [False, True], ids=["candidate", "both"])
def test_a_switched_candidate_whose_server_died_too_is_started_again(switched, wanted, both):
    place, old, new = switched
    kill_processes(place, place.digest(new), *([place.digest(old)] if both else []))
    assert place.live() == place.digest(new)  # what the next run compares with
    artifact = {"new": new, "old": old}.get(wanted) or place.release("third")
    place.roll(artifact)
    place.settled_on(place.digest(artifact))


@pytest.mark.parametrize("wanted", ["new", "third"])
def test_a_switched_candidate_that_cannot_start_again_gives_way(switched, wanted):
    place, old, new = switched
    kill_processes(place, place.digest(new), place.digest(old))
    place.commands = replace(place.commands, server=lambda release, model, port: _failing(place, new, release, port))
    if wanted == "new":
        with pytest.raises(RolloutFailed, match=rf"{place.digest(old)} is live\.$"):
            place.roll(new)
        place.settled_on(place.digest(old))
    else:
        third = place.release("third")
        place.roll(third)
        place.settled_on(place.digest(third))


def _failing(place, artifact, release, port):
    """The server's command line; that of one release names a folder that is not there."""
    bad = release == place.store.release(place.digest(artifact))
    return fake_server(release / "gone" if bad else release, "chat", port)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_first_rollout_that_was_killed_is_continued(place, at):
    release = place.release("first")
    assert roll_and_die(place, release, at)[0]
    assert place.live() is None
    place.roll(release)
    place.settled_on(place.digest(release))


def test_whoever_finishes_another_s_rollout_writes_its_record(switched):
    place, _, new = switched
    path = place.store.attestations(place.digest(new)) / "rollout.json"
    assert not path.exists()
    place.run = place.run.model_copy(update={"name": "third-run", "run_id": "run-3"})
    place.roll(place.release("third"))
    record = json.loads(path.read_text())
    assert (record["digest"], record["run_id"], record["run"]) == (place.digest(new), "run-1", "test")
    assert record["action"] == "rolled out"
    history = [(entry.digest, entry.run_id) for entry in place.target().state().history]
    assert history[1:] == [(place.digest(new), "run-1"), (place.digest(place.root / "third"), "run-3")]


def test_a_record_that_a_dead_rollout_had_no_time_for_is_written_by_the_next(place):
    first = place.release("first")

    def act():
        deliver._attest = die
        place.roll(first)

    assert killed(act)
    path = place.store.attestations(place.digest(first)) / "rollout.json"
    assert place.live() == place.digest(first) and not path.exists()
    place.run = place.run.model_copy(update={"run_id": "run-2"})
    place.roll(place.release("second"))
    assert json.loads(path.read_text())["run_id"] == "run-1"


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_what_a_dead_rollout_left_can_be_finished_without_a_run(switched, bad):
    place, old, new = switched
    if bad:
        kill_processes(place, place.digest(new))
        place.commands = replace(place.commands, server=lambda *given: _failing(place, new, given[0], given[2]))
        with pytest.raises(RolloutFailed, match=rf"{place.digest(old)} is live\.$"):
            deliver.finish(place.store, commands=place.commands)
        place.settled_on(place.digest(old))
    else:
        record = deliver.finish(place.store, commands=place.commands)
        assert (record["digest"], record["run_id"]) == (place.digest(new), "run-1")
        place.settled_on(place.digest(new))
    assert deliver.finish(place.store, commands=place.commands) is None


def test_a_stable_release_that_a_dead_replacement_stopped_is_started_again(place):
    first = place.release("first")
    place.roll(first)
    place.config = place.config.model_copy(update={"strategy": "replace"})

    def act():
        local.LocalTarget.apply = die
        place.roll(place.release("second"))

    assert killed(act)
    assert place.running() == set() and place.target().observe().stable.state == "stopped"
    assert deliver.finish(place.store, commands=place.commands)["action"] == "started again"
    place.settled_on(place.digest(first))


def test_a_rejection_is_not_forgotten_with_the_process_that_decided_it(place):
    good, bad = place.release("good"), place.release("bad", "wrong")
    place.roll(good)
    child = os.fork()
    if child == 0:
        local.LocalTarget.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        place.roll(bad)
        os._exit(1)
    os.waitpid(child, 0)
    assert "token 2 is 13" in place.target().observe().rejected
    state = place.target().state()
    state.rejected = "1 of 2 requests failed"  # what only the dead one has seen
    place.target()._save(state)
    with pytest.raises(RolloutFailed, match=r"did not go live: 1 of 2 requests failed\. .* is live\.$"):
        deliver.finish(place.store, commands=place.commands)
    place.settled_on(place.digest(good))
    assert not place.target().state().rejected


def test_down_cleans_up_after_a_killed_rollout(place):
    release = place.release("first")
    assert roll_and_die(place, release, 5)[0]
    assert place.target().state().candidate == place.digest(release)
    deliver.down(place.store)
    assert place.running() == set() and place.live() is None
