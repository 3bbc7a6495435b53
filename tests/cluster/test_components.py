"""The list of components fits together: what a flag names is made, what is waited for can come, nothing collides."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster.build import PROGRAMS
from tests.cluster.components import components, identities
from tests.cluster.configurations import configurations
from tests.cluster.harness import Cluster
from tests.cluster.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(state=tmp_path / "state", cache=tmp_path / "cache", run=tmp_path / "run", node_ip="10.1.2.3")


def test_each_binary_is_built_or_comes_from_a_package(place: Place) -> None:
    built = {program.name for program in PROGRAMS}
    assert {one.binary for one in components(place) if not one.binary.startswith("/")} <= built


def test_each_file_that_a_flag_names_is_made(place: Place) -> None:
    made = {str(file) for file in configurations(place)}
    made |= {
        f"{place.certificates}/{name}" for name in ("ca.crt", "ca.key", "service-account.key", "service-account.pub")
    }
    for identity in identities(place):
        made |= {f"{place.certificates}/{identity.name}.{ending}" for ending in ("crt", "key")}
        made.add(f"{place.kubeconfigs}/{identity.name}")
    folders = (place.certificates, place.kubeconfigs, place.configurations)
    for component in components(place):
        for text in (*component.flags, *component.environment.values()):
            for named in re.findall(rf"{place.state}[^,\s]*", text):
                if Path(named).parent in folders:
                    assert named in made, f"{component.name} is told of {named}, which nothing makes"


def test_each_configuration_file_is_given_to_somebody(place: Place) -> None:
    told = " ".join(flag for one in components(place) for flag in one.flags)
    containerd = configurations(place)[place.configurations / "containerd.toml"]
    for file in configurations(place):
        assert str(file) in told or any(str(folder) in containerd for folder in file.parents[:2]), file


def test_nobody_is_asked_at_the_address_of_another(place: Place) -> None:
    asked = [urlsplit(one.ready).netloc if isinstance(one.ready, str) else str(one.ready) for one in components(place)]
    assert sorted(asked) == sorted(set(asked))


def test_all_start_after_what_they_need(place: Place) -> None:
    waves = list(Cluster(place)._waves())
    started = [name for wave in waves for name in wave]
    assert set(started) == {one.name for one in components(place) if not one.on_demand}
    wave_of = {name: number for number, wave in enumerate(waves) for name in wave}
    for component in components(place):
        for needed in component.after:
            if not component.on_demand:
                assert wave_of[needed] < wave_of[component.name]


def test_only_the_machine_itself_reaches_what_has_no_password(place: Place) -> None:
    """etcd answers whoever comes, so it must not listen where pods can reach it."""
    [etcd] = [one for one in components(place) if one.name == "etcd"]
    listening = [flag for flag in etcd.flags if flag.startswith(("--listen", "--advertise"))]
    assert len(listening) == 3
    assert all("//127.0.0.1:" in flag for flag in listening)


def test_components_get_the_rights_that_kubernetes_gives_them_and_not_all(place: Place) -> None:
    allowed_everything = {one.name for one in identities(place) if "system:masters" in one.groups}
    assert allowed_everything == {"kube-apiserver-kubelet-client", "kwok"}
