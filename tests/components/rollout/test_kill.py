"""The rollout process is killed (-9) at every moment that leaves a trace, and whoever comes next makes it whole."""

from __future__ import annotations

import os
import signal
import sys

import httpx
import pytest

from components.rollout import deliver, local, processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def around(function, moment):
    def wrapped(*arguments, **named):
        moment()
        result = function(*arguments, **named)
        moment()
        return result

    return wrapped


def roll_and_die(place, artifact, at: int | None) -> tuple[bool, int]:
    """Roll out in a child process that kills itself at the n-th moment: (was it killed, moments seen until then).

    A moment is before and after each step, each change of a file, each start and each end of a process.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)

        def moment():
            os.write(write, b".")
            moment.count += 1
            if moment.count - 1 == at:
                os.kill(os.getpid(), signal.SIGKILL)

        moment.count = 0
        deliver._announce = around(deliver._announce, moment)
        local.write_atomically = around(local.write_atomically, moment)
        processes.start = around(processes.start, moment)
        processes.stop = around(processes.stop, moment)
        try:
            place.roll(artifact)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as seen:
        count = len(seen.read())
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status), count


def test_killed_after_every_moment_and_called_again(served):
    place, good = served
    pair = {place.digest(artifact): artifact for artifact in (good, place.release("other"))}
    _, moments = roll_and_die(place, pair[next(digest for digest in pair if digest != place.live())], None)
    assert moments > 20
    outcomes = []
    for at in range(moments):
        old = place.live()
        new = next(digest for digest in pair if digest != old)
        killed, _ = roll_and_die(place, pair[new], at)
        assert killed, f"moment {at} was not reached"

        # Before anybody mends it: one of the two is live, and answers.
        found = place.live()
        assert found in (old, new)
        question = {"messages": [{"role": "user", "content": "question 0"}], "model": "chat"}
        reply = httpx.post(f"{place.target().url}/v1/chat/completions", json=question)
        assert reply.status_code == 200 and reply.headers["x-slipway-release"] in (old, new)

        # Whoever comes next wants the same again, or what was live before.
        wanted = new if at % 2 else old
        place.roll(pair[wanted])
        place.settled_on(wanted)
        outcomes.append(found == new)
    # Once switched, always switched: up to some moment the old one is live, from then on the new one.
    assert outcomes == sorted(outcomes) and set(outcomes) == {False, True}


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_first_rollout_that_was_killed_is_continued(place, at):
    release = place.release("first")
    assert roll_and_die(place, release, at)[0]
    assert place.live() is None
    place.roll(release)
    place.settled_on(place.digest(release))


def test_down_cleans_up_after_a_killed_rollout(place):
    release = place.release("first")
    assert roll_and_die(place, release, 5)[0]
    assert place.target().state().candidate == place.digest(release)
    deliver.down(place.store)
    assert place.running() == set() and place.live() is None
