"""The store does every piece of work once, notices what is damaged, and loses nothing to a kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components import store as store_module
from components.step_config import RunSettings
from components.store import (
    Store,
    code_digest,
    content_digest,
    link_tree,
    sha256_json,
    tree_files,
    write_atomically,
)
from tests.components.conftest import events

ROOT = Path(__file__).parents[2]


class Work:
    """A step's `make` that counts its calls; `dies` makes it fail after its first file."""

    def __init__(self, text="made"):
        self.text, self.calls, self.dies = text, 0, False
        self.found = []

    def __call__(self, directory):
        self.calls += 1
        self.found.append(sorted(path.name for path in directory.iterdir()))
        (directory / "first.txt").write_text(self.text)
        if self.dies:
            raise KeyboardInterrupt
        (directory / "deeper").mkdir(exist_ok=True)
        (directory / "deeper" / "second.txt").write_text(self.text * 2)


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def produce(tmp_path):
    """`produce(make)` fills tmp_path/output by way of a store in tmp_path/store; True when it was reused."""

    def produce(make, *, step="finetune", config=None, inputs=None, force=(), output="output"):
        run = RunSettings(name="test", store=str(tmp_path / "store"), force=list(force))
        return Store(run).produce(step, config or {}, inputs or {}, tmp_path / output, make)

    return produce


def entries(tmp_path, pattern="*"):
    return [path for path in (tmp_path / "store" / "steps" / "finetune").glob(pattern) if path.is_dir()]


# --- reuse -----------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_made(produce, work, tmp_path, capsys):
    assert produce(work) is False
    first = tree_files(tmp_path / "output")
    assert first.keys() == {"first.txt", "deeper/second.txt"}
    shutil.rmtree(tmp_path / "output")
    assert produce(work) is True
    assert work.calls == 1
    assert tree_files(tmp_path / "output") == first
    assert [event["event"] for event in events(capsys)] == ["stored", "reused"]


def test_another_configuration_is_another_result(produce, work):
    produce(work, config={"rank": 8})
    produce(work, config={"rank": 16})
    assert work.calls == 2


def test_another_step_with_the_same_inputs_is_another_result(produce, work):
    produce(work)
    produce(work, step="other")
    assert work.calls == 2


def test_inputs_count_by_content_and_name_not_by_place_or_time(produce, work, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text("rows")
    os.utime(tmp_path / "two" / "data.txt", (1, 1))
    produce(work, inputs={"examples": tmp_path / "one"})
    produce(work, inputs={"examples": tmp_path / "two"})
    assert work.calls == 1
    (tmp_path / "two" / "data.txt").write_text("rods")
    produce(work, inputs={"examples": tmp_path / "two"})
    assert work.calls == 2
    produce(work, inputs={"base": tmp_path / "one"})
    assert work.calls == 3


def test_a_result_of_the_store_is_an_input_by_its_content(produce, work, tmp_path):
    """So a step that is made again with the same bytes does not make the ones after it again."""
    after = Work("after")
    produce(work)
    produce(after, step="after", inputs={"toy": tmp_path / "output"})
    produce(work, force=["finetune"])
    assert work.calls == 2
    produce(after, step="after", inputs={"toy": tmp_path / "output"})
    assert after.calls == 1
    work.text = "changed"
    produce(work, force=["finetune"])
    produce(after, step="after", inputs={"toy": tmp_path / "output"})
    assert after.calls == 2


@pytest.mark.parametrize(("force", "calls"), [(["finetune"], 2), (["all"], 2), (["evaluate"], 1)])
def test_force_makes_the_named_steps_again(force, calls, produce, work, tmp_path):
    produce(work)
    work.text = "again"
    produce(work, force=force)
    assert work.calls == calls
    assert (tmp_path / "output" / "first.txt").read_text() == ("again" if calls == 2 else "made")


def test_output_holds_the_new_result_and_nothing_of_the_old(produce, work, tmp_path):
    produce(work, config={"rank": 8})
    (tmp_path / "output" / "stray.txt").write_text("left by somebody")
    other = Work("other")
    produce(other, config={"rank": 16})
    assert tree_files(tmp_path / "output").keys() == {"first.txt", "deeper/second.txt"}
    assert (tmp_path / "output" / "first.txt").read_text() == "other"


def test_output_is_linked_where_the_file_system_allows_and_copied_where_not(produce, work, tmp_path, monkeypatch):
    produce(work)
    (entry,) = entries(tmp_path)
    assert (tmp_path / "output" / "deeper" / "second.txt").samefile(entry / "deeper" / "second.txt")

    def refuses(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuses)
    produce(work, output="elsewhere")
    copy = tmp_path / "elsewhere" / "deeper" / "second.txt"
    assert not copy.samefile(entry / "deeper" / "second.txt")
    assert tree_files(tmp_path / "elsewhere") == tree_files(entry)
    assert content_digest(tmp_path / "elsewhere") == content_digest(entry)


# --- damage and death ------------------------------------------------------------------------------------------


def test_what_a_dead_step_left_is_continued(produce, work, tmp_path):
    work.dies = True
    with pytest.raises(KeyboardInterrupt):
        produce(work)
    assert not (tmp_path / "output").exists()
    assert [path.suffix for path in entries(tmp_path)] == [".partial"]
    work.dies = False
    assert produce(work) is False
    assert work.found == [[], ["first.txt"]]
    assert [path.suffix for path in entries(tmp_path)] == [""]


@pytest.mark.parametrize("last_call", ["_protect", "Path.rename"])
def test_what_a_dead_step_had_finished_is_not_made_again(last_call, produce, work, tmp_path, monkeypatch):
    die_at(last_call, produce, work, monkeypatch)
    assert produce(work) is False
    assert work.calls == 1
    assert tree_files(tmp_path / "output").keys() == {"first.txt", "deeper/second.txt"}
    assert [path.suffix for path in entries(tmp_path)] == [""]
    assert not any(path.stat().st_mode & 0o222 for path in (tmp_path / "output").rglob("*.txt"))


def test_what_a_dead_step_had_finished_is_made_anew_when_forced_or_damaged(produce, work, tmp_path, monkeypatch):
    die_at("Path.rename", produce, work, monkeypatch)
    produce(work, force=["finetune"])
    assert work.found == [[], []]
    shutil.rmtree(tmp_path / "store")
    die_at("Path.rename", produce, work, monkeypatch)
    shorten_a_file(*entries(tmp_path))
    produce(work)
    assert work.found == [[], [], [], []]
    assert (tmp_path / "output" / "deeper" / "second.txt").read_text() == "mademade"


def die_at(call, produce, work, monkeypatch):
    """Kill a step after its manifest: before `_protect`, or before the rename that ends its work."""

    def dies(path, *_):
        if path.suffix == ".partial":
            raise KeyboardInterrupt
        return renamed(path, *_)

    renamed = Path.rename
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*((Path, "rename") if call == "Path.rename" else (store_module, "_protect")), dies)
        produce(work)


def test_half_written_files_of_a_dead_step_do_not_enter_the_result(produce, tmp_path):
    def dies(directory):
        write_atomically(directory / "whole.txt", "whole")
        torn = next(path for path in _names_while_writing(directory / "deeper" / "torn.txt"))
        torn.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce(dies)
    produce(lambda directory: None)
    assert tree_files(tmp_path / "output").keys() == {"whole.txt"}


def _names_while_writing(path):
    """The name under which write_atomically keeps a text that is not complete, as a kill would leave it."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: seen.append(self))
        write_atomically(path, "")
    return seen


def remove_a_file(entry):
    (entry / "deeper" / "second.txt").unlink()


def shorten_a_file(entry):
    os.truncate(entry / "deeper" / "second.txt", 3)


def remove_the_manifest(entry):
    (entry / "manifest.json").unlink()


def tear_the_manifest(entry):
    os.truncate(entry / "manifest.json", 10)


@pytest.mark.parametrize("damage", [remove_a_file, shorten_a_file, remove_the_manifest, tear_the_manifest])
def test_a_damaged_entry_is_noticed_and_made_again(damage, produce, work, tmp_path, capsys):
    produce(work)
    (entry,) = entries(tmp_path)
    damage(entry)
    assert produce(work) is False
    assert work.calls == 2
    assert (tmp_path / "output" / "deeper" / "second.txt").read_text() == "mademade"
    said = events(capsys)
    assert [event["event"] for event in said] == ["stored", "discarded", "stored"]
    assert produce(work) is True


def spawn(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


PRODUCE = """
import sys, time
from pathlib import Path
from components.step_config import RunSettings
from components.store import Store
folder, output, pause = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def make(directory):
    with (folder / "calls.txt").open("a") as file:
        file.write(f"{[path.name for path in directory.iterdir()]}\\n")
    (directory / "begun.txt").write_text("begun")
    (folder / "busy").touch()
    if pause == "until go":
        while not (folder / "go").exists():
            time.sleep(0.01)
    else:
        time.sleep(float(pause))

Store(RunSettings(name="test", store=str(folder / "store"))).produce("finetune", {}, {}, folder / output, make)
"""


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def read_events(process):
    out, _ = process.communicate(timeout=30)
    return [json.loads(line) for line in out.splitlines()]


def test_two_processes_do_the_work_once_and_the_one_that_waits_says_for_whom(tmp_path):
    first = spawn(PRODUCE, tmp_path, "one", "until go")
    wait_for(tmp_path / "busy")
    second = spawn(PRODUCE, tmp_path, "two", 0)
    waiting = json.loads(second.stdout.readline())
    (tmp_path / "go").touch()
    said_first, said_second = read_events(first), [waiting, *read_events(second)]
    assert [event["event"] for event in said_first] == ["stored"]
    assert [event["event"] for event in said_second] == ["waiting", "reused"]
    assert f"process {first.pid} on " in waiting["why"]
    assert (tmp_path / "calls.txt").read_text() == "[]\n"
    assert tree_files(tmp_path / "one") == tree_files(tmp_path / "two") != {}


def test_started_at_the_same_moment_they_do_the_work_once(tmp_path):
    processes = [spawn(PRODUCE, tmp_path, f"output-{number}", 0.1) for number in range(3)]
    last = [read_events(process)[-1]["event"] for process in processes]
    assert sorted(last) == ["reused", "reused", "stored"]
    assert (tmp_path / "calls.txt").read_text() == "[]\n"


def test_a_killed_process_releases_the_lock_and_who_waited_continues_its_work(tmp_path):
    first = spawn(PRODUCE, tmp_path, "one", 600)
    wait_for(tmp_path / "busy")
    second = spawn(PRODUCE, tmp_path, "two", 0)
    assert "waiting" in second.stdout.readline()
    first.kill()
    assert first.wait(30) == -signal.SIGKILL
    first.stdout.close()
    assert [event["event"] for event in read_events(second)] == ["stored"]
    assert (tmp_path / "calls.txt").read_text() == "[]\n['begun.txt']\n"
    assert not (tmp_path / "one").exists()


REWRITE = """
import sys
from pathlib import Path
from components.store import write_atomically
print("ready", flush=True)
while True:
    for letter in "ab":
        write_atomically(Path(sys.argv[1]), letter * 3_000_000)
"""


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, "a" * 3_000_000)
    chance = random.Random()
    for _ in range(6):
        process = spawn(REWRITE, path)
        process.stdout.readline()
        time.sleep(chance.uniform(0.02, 0.2))
        process.kill()
        process.wait(30)
        process.stdout.close()
        text = path.read_text()
        assert len(text) == 3_000_000 and len(set(text)) == 1


def test_writers_of_the_same_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Pods that share a volume have the same process ids."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert _names_while_writing(tmp_path / "state.json") != _names_while_writing(tmp_path / "state.json")


def test_folders_are_made_for_a_file_that_is_written(tmp_path):
    write_atomically(tmp_path / "a" / "b.json", "Köln")
    assert (tmp_path / "a" / "b.json").read_bytes() == "Köln".encode()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


# --- digests ---------------------------------------------------------------------------------------------------


def test_json_digests_do_not_depend_on_the_order_of_keys():
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json({"b": [1, 2], "a": 1})
    assert sha256_json({"b": [2, 1]}) != sha256_json({"b": [1, 2]})


def test_content_is_names_and_bytes(tmp_path):
    digests = set()
    for number, (name, text) in enumerate([("a.txt", "x"), ("b.txt", "x"), ("a.txt", "y")]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_text(text)
        digests.add(content_digest(tmp_path / str(number)))
    assert len(digests) == 3
    assert content_digest(tmp_path / "0" / "a.txt") == content_digest(tmp_path / "1" / "b.txt")


def test_a_manifest_is_believed_as_long_as_the_sizes_are_right(produce, work, tmp_path, monkeypatch):
    produce(work)
    output = tmp_path / "output"
    digest = content_digest(output)
    assert digest == sha256_json(tree_files(output))
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "file_digest", lambda path: pytest.fail(f"{path} was hashed"))
        assert content_digest(output) == digest
    shorten_a_file(output)
    assert content_digest(output) != digest


@pytest.mark.parametrize("text", ["[]", '{"name": "an app"}', "not json"])
def test_somebody_else_s_manifest_is_not_believed(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "data.txt").write_text("rows")
    assert content_digest(tmp_path) == sha256_json(tree_files(tmp_path))


def test_a_tree_that_is_linked_replaces_what_was_there(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "new.txt").write_text("new")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old.txt").write_text("old")
    link_tree(tmp_path / "source", tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new.txt"]


# --- code ------------------------------------------------------------------------------------------------------

FAKE_PROJECT = {
    "components/__init__.py": "",
    "components/shared.py": "from components import deep\n",
    "components/deep.py": "",
    "components/relative.py": "",
    "components/unrelated.py": "",
    "components/toy/__init__.py": "",
    "components/toy/component.py": "def face():\n    from components.toy.toy import work\n    import json\n",
    "components/toy/toy.py": "from components.shared import thing\nfrom .. import relative\nfrom . import config\n",
    "components/toy/config.py": "import serving.release\n",
    "components/other/component.py": "",
    "serving/__init__.py": "",
    "serving/release.py": "",
    "serving/app.py": "",
    "constraints.txt": "torch==2.13\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = tmp_path / "project"
    for name, text in FAKE_PROJECT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(store_module, "_PROJECT", root)
    monkeypatch.setattr(store_module, "_LOCK_FILE", root / "constraints.txt")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "components/toy/component.py",
        "components/toy/toy.py",
        "components/toy/config.py",
        "components/shared.py",
        "components/deep.py",
        "components/relative.py",
        "serving/release.py",
        "constraints.txt",
    ],
)
def test_a_change_in_any_code_that_the_step_runs_makes_it_again(name, project, produce, work):
    produce(work, step="toy")
    (project / name).write_text((project / name).read_text() + "# changed\n")
    produce(work, step="toy")
    assert work.calls == 2


@pytest.mark.parametrize("name", ["components/unrelated.py", "components/other/component.py", "serving/app.py"])
def test_a_change_elsewhere_does_not(name, project, produce, work):
    produce(work, step="toy")
    (project / name).write_text("# changed\n")
    produce(work, step="toy")
    assert work.calls == 1


def visited(step, monkeypatch):
    """The project files that enter a step's code digest."""
    seen, digest = set(), store_module.file_digest
    monkeypatch.setattr(store_module, "file_digest", lambda path: (seen.add(path), digest(path))[1])
    code_digest(step)
    return {path.relative_to(ROOT).as_posix() for path in seen}


def test_of_the_real_code_finetune_depends_on_what_it_runs_and_no_more(monkeypatch):
    found = visited("finetune", monkeypatch)
    mine = {path.relative_to(ROOT).as_posix() for path in (ROOT / "components" / "finetune").glob("*.py")}
    shared = {f"components/{name}.py" for name in ("store", "progress", "report", "step_config", "tracking", "images")}
    assert mine | shared | {"components/constraints.txt"} <= found
    assert not [name for name in found if name.startswith(("serving/", "pipelines/"))]
    others = ("prepare_data", "evaluate", "quality_gate", "rollout", "package_release", "fetch_base")
    assert not [name for name in found if name.startswith(tuple(f"components/{other}/" for other in others))]


def test_of_the_real_code_prepare_data_depends_on_the_encoding_of_chats(monkeypatch):
    found = visited("prepare_data", monkeypatch)
    assert "components/chat.py" in found
    assert "serving/front.py" not in found
    assert "components/finetune/train.py" not in found


def test_places_of_releases_and_of_what_is_learned_about_them(tmp_path):
    store = Store(RunSettings(name="test", store=str(tmp_path)))
    assert store.release("sha256:ab") == tmp_path / "releases" / "ab" == store.releases / "ab"
    assert store.attestations("sha256:ab") == tmp_path / "attestations" / "ab"
