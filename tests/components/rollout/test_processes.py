"""Processes are known by id and start, ended gently first, and found again by their command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from components.rollout import processes

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def sleeper(marker="sleeper", program="import time; print('up', flush=True); time.sleep(60)"):
    return [sys.executable, "-S", "-c", program, marker]


def started(tmp_path, command):
    pid, mark = processes.start(command, tmp_path / "log", {"SLIPWAY_TEST": "1"})
    while "up" not in processes.last_lines(tmp_path / "log"):
        time.sleep(0.01)
    return pid, mark


def test_a_process_is_known_by_its_start_in_every_process(tmp_path):
    pid, mark = started(tmp_path, sleeper())
    ask = f"from components.rollout.processes import start_mark; print(start_mark({pid}))"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout.strip() == mark
    assert processes.start_mark(os.getpid()) not in (None, mark)
    assert processes.stop(pid, mark, 5)
    assert processes.start_mark(pid) is None


def test_it_leads_a_session_of_its_own(tmp_path):
    pid, mark = started(tmp_path, sleeper())
    assert os.getsid(pid) == pid
    processes.stop(pid, mark, 5)


def test_a_process_that_does_not_listen_is_ended_after_its_time(tmp_path):
    pid, mark = started(tmp_path, sleeper(program=STUBBORN))
    assert processes.stop(pid, mark, 0.2) is False
    assert processes.start_mark(pid) is None


def test_a_stranger_with_the_same_id_is_left_alone(tmp_path):
    pid, mark = started(tmp_path, sleeper())
    assert processes.stop(pid, "another start", 1) is True
    assert processes.start_mark(pid) == mark
    processes.stop(pid, mark, 5)


def test_a_process_is_found_by_its_exact_command_line(tmp_path):
    command = sleeper(marker=str(tmp_path))
    assert processes.find(command) is None
    pid, mark = started(tmp_path, command)
    assert processes.find(command) == pid
    assert processes.find(["/another/python", *command[1:]]) == pid
    assert processes.find([*command, "more"]) is None
    processes.stop(pid, mark, 5)


def test_a_process_that_ended_is_gone_and_its_code_is_known(tmp_path):
    pid, _ = processes.start([sys.executable, "-S", "-c", "raise SystemExit(7)"], tmp_path / "log", {})
    while processes.start_mark(pid):
        time.sleep(0.01)
    assert processes.exit_code(pid) == 7
    assert processes.exit_code(os.getpid()) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_whose_first_thread_ended_runs_until_the_others_have(tmp_path):
    """As one that is being killed: it keeps its port until its last thread is gone."""
    program = (
        "import ctypes, threading, time; "
        "threading.Thread(target=lambda: (print('up', flush=True), time.sleep(60))).start(); "
        "time.sleep(0.2); ctypes.CDLL(None).pthread_exit(None)"
    )
    pid, mark = started(tmp_path, sleeper(program=program))
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert processes.start_mark(pid) == mark
    processes.stop(pid, mark, 0.2)
    assert processes.start_mark(pid) is None


def test_the_end_of_a_log_is_one_line(tmp_path):
    assert processes.last_lines(tmp_path / "none") == ""
    (tmp_path / "log").write_text("one\n\ntwo\nthree\n")
    assert processes.last_lines(tmp_path / "log", 2) == "two | three"


def test_only_the_end_of_a_long_log_is_read(tmp_path, monkeypatch):
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(3_000_000_000)  # sparse: reading it whole would not fit
        file.seek(0, os.SEEK_END)
        file.write("ünd\nlast\n".encode())
    assert processes.last_lines(log, 1) == "last"
    log.write_text("x" * 100_000 + "\nlast\n")
    assert len(processes.last_lines(log)) < 17_000


def test_a_log_is_set_aside_once_it_is_too_large(tmp_path):
    log = tmp_path / "log"
    processes.rotate(log, 3)
    for text in ("one", "long", "longer"):
        log.write_text(text)
        processes.rotate(log, 3)
        assert log.exists() == (text == "one")
    assert (tmp_path / "log.1").read_text() == "longer"
