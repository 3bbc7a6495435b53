"""The lock of one service: one holder, told to the others, lost in time, taken over from the dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from components.rollout.kserve import client, lease
from components.rollout.kserve.lease import Lock, holder_of, is_held
from components.rollout.target import LockLost, RolloutBusy, TargetError
from tests.components.rollout.kserve.fake_api import Fault


@pytest.fixture
def lock(place):
    made = Lock(place.cluster(), "chat", "run-1", renew_seconds=0.1)
    yield made
    made.release()


def found(place):
    return place.api.one("leases", "slipway-chat")


def another(place, run="run-2"):
    return Lock(place.cluster(), "chat", run)


def taken_by_another(place):
    """A Lease as a living rollout elsewhere would have written it."""
    held = found(place)
    held["spec"]["holderIdentity"] = "elsewhere/1"
    held["metadata"]["annotations"]["slipway.dev/host"] = "elsewhere"
    return place.api.put("leases", held)


def test_the_second_is_told_who_holds_it(place, lock):
    lock.acquire()
    with pytest.raises(
        RolloutBusy, match=rf"chat is being changed by process {os.getpid()} on \S+, run run-1, since 2"
    ):
        another(place).acquire()


def test_what_is_released_is_free_at_once(place, lock):
    lock.acquire()
    lock.release()
    assert not is_held(found(place), time.time())
    second = another(place)
    second.acquire()
    assert holder_of(found(place)).run == "run-2"
    assert found(place)["spec"]["leaseTransitions"] == 1
    second.release()


def test_a_renewal_that_comes_between_does_not_keep_it_from_being_released(place):
    held = another(place)
    held.acquire()
    conflict = Fault(lambda method, path: method == "PUT" and "leases" in path, 409)
    place.api.faults.append(conflict)
    held.release()
    assert conflict.times == 0 and not is_held(found(place), time.time())


def test_services_have_locks_of_their_own(place, lock):
    lock.acquire()
    other = Lock(place.cluster(), "other", "run-2")
    other.acquire()
    other.check()
    other.release()
    lock.check()


def test_it_is_renewed_while_it_is_held(place, lock):
    lock.acquire()
    first = found(place)["spec"]["renewTime"]
    deadline = time.monotonic() + 3
    while found(place)["spec"]["renewTime"] == first and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found(place)["spec"]["renewTime"] > first
    lock.check()


def test_a_holder_that_does_not_renew_loses_it(place, lock):
    lock.acquire()
    held = taken_by_another(place)
    assert is_held(held, time.time() + lease.SECONDS - 2)
    assert not is_held(held, time.time() + lease.SECONDS + 2)


def test_a_change_that_was_just_allowed_has_ended_before_another_may_take_it():
    assert lease.SECONDS - lease._SURE_SECONDS >= client._CONNECT_SECONDS + client._REQUEST_SECONDS


def wait_for_loss(lock):
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        lock.check()
        time.sleep(0.02)


def wait_while(lock, holds):
    """Return when that is over; the lock is held all the time."""
    deadline = time.monotonic() + 30
    while holds():
        lock.check()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lock.check()


def test_whoever_lost_it_is_told(place, lock):
    lock.acquire()
    taken_by_another(place)
    with pytest.raises(LockLost, match=r"the lock of chat \(Lease slipway-chat\) was lost: elsewhere holds it now"):
        wait_for_loss(lock)
    lock.release()
    assert found(place)["spec"]["holderIdentity"] == "elsewhere/1"  # it is not ours to give back


def test_a_deleted_lease_is_a_lost_one(place, lock):
    lock.acquire()
    place.api.drop("leases", "slipway-chat")
    with pytest.raises(LockLost, match="somebody deleted it"):
        wait_for_loss(lock)


def test_a_server_that_is_away_for_too_long_costs_the_lock(place, lock, monkeypatch):
    monkeypatch.setattr(lease, "_SURE_SECONDS", 1)
    lock.acquire()
    place.api.faults.append(Fault(lambda method, path: "leases" in path, 503, times=1000))
    with pytest.raises(LockLost, match="could not be renewed for 1 s"):
        wait_for_loss(lock)


def test_a_server_that_is_away_for_a_moment_costs_nothing(place, lock):
    lock.acquire()
    away = Fault(lambda method, path: "leases" in path, 503, times=3)
    place.api.faults.append(away)
    wait_while(lock, lambda: away.times)
    last = found(place)["spec"]["renewTime"]
    wait_while(lock, lambda: found(place)["spec"]["renewTime"] == last)


def test_nothing_is_changed_without_it(lock):
    with pytest.raises(TargetError, match="is not held"):
        lock.check()


DIES = """
import os, sys
from components.rollout.kserve.client import Cluster
from components.rollout.kserve.lease import Lock
Lock(Cluster.connect("serving"), "chat", "run-0").acquire()
os.kill(os.getpid(), 9)
"""


def test_the_lock_of_a_process_that_was_killed_here_is_free_at_once(place, lock):
    subprocess.run([sys.executable, "-c", DIES], check=False, timeout=60)
    assert found(place)["spec"]["holderIdentity"] and holder_of(found(place)).run == "run-0"
    lock.acquire()
    assert holder_of(found(place)).run == "run-1"


def test_a_process_elsewhere_is_never_taken_for_dead(place, lock):
    subprocess.run([sys.executable, "-c", DIES], check=False, timeout=60)
    held = found(place)
    held["metadata"]["annotations"]["slipway.dev/machine"] = "another"
    place.api.put("leases", held)
    with pytest.raises(RolloutBusy, match="run run-0"):
        lock.acquire()


@pytest.mark.parametrize("after", [False, True], ids=["lost on the way", "answer lost"])
def test_an_answer_that_is_lost_does_not_lock_us_out(place, lock, after):
    place.api.faults.append(Fault(lambda method, path: method == "POST", 0, after=after))
    lock.acquire()
    lock.check()


def test_of_two_at_once_one_gets_it(place, lock):
    """The other has looked before the first one wrote."""
    second, looked = another(place), place.cluster()
    looked.get = lambda *_: None
    second._cluster = looked
    lock.acquire()
    found(place)["spec"]["holderIdentity"] = "elsewhere/1"
    with pytest.raises(RolloutBusy):
        second.acquire()
