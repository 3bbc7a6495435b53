"""What the cluster needs from the machine and leaves on it: packages, firewall rules, control groups, mounts.

Everything made here carries the node's name, and `clean` removes it again.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.cluster.place import NODE, POD_RANGE, SERVICE_RANGE, ClusterError, Place

PACKAGES = {
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "/usr/sbin/iptables",
    "conntrack": "/usr/sbin/conntrack",
    "buildah": "/usr/bin/buildah",
    "debootstrap": "/usr/sbin/debootstrap",
}
"""Debian package -> a file of it."""

GO_VERSION = (1, 25)
_CGROUPS = Path("/sys/fs/cgroup")


def missing(needs_go: bool, needs_compiler: bool) -> list[str]:
    """What this machine lacks for a cluster, in words; empty when it has everything or can install it itself."""
    if sys.platform != "linux":
        return [f"Linux (this is {sys.platform}); run it in a Linux virtual machine"]
    lacks: list[str] = []
    if os.geteuid() != 0:
        lacks.append("root: containers, bridges and firewall rules need it (`sudo -E make cluster`)")
    elif rights := absent_rights():
        lacks.append(f"{', '.join(rights)}: root in a container has them only when it is privileged")
    if not can_install() and (packages := absent_packages(needs_compiler)):
        lacks.append(f"{', '.join(packages)}: not Debian with root, so install them by hand")
    if needs_go and not (found := go_version()) >= GO_VERSION:
        have = ".".join(map(str, found)) if found else "none"
        lacks.append(
            f"Go {'.'.join(map(str, GO_VERSION))} or newer to build the components ({have} found): https://go.dev/dl/"
        )
    return lacks


def absent_rights() -> list[str]:
    """Which of root's rights this root lacks."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = int(status["CapEff"], 16)
    absent = [name for name, bit in {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}.items() if not held >> bit & 1]
    if os.statvfs(_groups()[0].parent).f_flag & os.ST_RDONLY:
        absent.append(f"writing to {_CGROUPS}")
    return absent


def can_install() -> bool:
    """Whether packages can be had from Debian without asking."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def absent_packages(needs_compiler: bool) -> list[str]:
    """Debian packages that the cluster needs and this machine lacks."""
    absent = [package for package, file in PACKAGES.items() if not Path(file).exists()]
    if needs_compiler and shutil.which("gcc") is None:
        absent += ["gcc", "libc6-dev"]
    return absent


def install_packages(needs_compiler: bool) -> None:
    """Install what is absent."""
    if not (packages := absent_packages(needs_compiler)):
        return
    print(f"installing {', '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"`apt-get {' '.join(command)}` failed: {done.stderr.strip()[-500:]}")


def go_version() -> tuple[int, ...]:
    """Of the `go` on PATH; empty when there is none."""
    if shutil.which("go") is None:
        return ()
    told = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True).stdout.strip()  # go1.26.1
    numbers = told.removeprefix("go").split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def prepare(place: Place) -> None:
    """Forwarding, firewall rules and control groups; once more does no harm."""
    with suppress(OSError):
        subprocess.run(["modprobe", "-a", "br_netfilter", "overlay"], capture_output=True)  # may be built in
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    with suppress(FileNotFoundError):  # an old kernel without the file has no bridge filter to pass by
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1\n")
    inotify = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(inotify.read_text()) < 1024:  # kubelet, containerd and each pod's log take some
        inotify.write_text("1024\n")
    for rule in _rules():
        if subprocess.run(["iptables", "-w", *_command("-C", rule)], capture_output=True).returncode:
            _iptables(*_command("-A", rule))
    for group in _groups():
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # version 1 gives a new group none, and nothing runs in it
            if group.parent == _CGROUPS / "cpuset":
                (group / name).write_text((group.parent / name).read_text())


def clean(place: Place) -> None:
    """Remove what `prepare` and the dead components left: rules, bridge, namespaces, mounts, control groups."""
    _remove_rules(place)
    subprocess.run(["ip", "link", "delete", NODE], capture_output=True)
    for mount in sorted(_mounts(place), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True)
    left = _mounts(place)
    if left:
        raise ClusterError(f"cannot unmount {left[0]}; `fuser -vm {left[0]}` shows who holds it")
    for cached in (Path("/var/lib/cni/results"), Path("/var/lib/cni/cache/results")):
        for file in cached.glob(f"{NODE}-*"):
            file.unlink()
    for group in _groups():
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # a process in it is dying still; an empty group left over does no harm
                os.rmdir(folder)


def shims(place: Place) -> list[int]:
    """Processes between containerd and its containers that outlived it: they name our socket."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"containerd-shim" in words[0] and str(place.containerd_socket).encode() in words:
                found.append(int(folder.name))
    return found


def _rules() -> list[tuple[str, str, list[str]]]:
    """Table, chain, rule."""
    return [
        ("nat", "POSTROUTING", ["-s", POD_RANGE, "!", "-d", POD_RANGE, "-j", "MASQUERADE"]),
        # An address that no Service owns must be refused: something upstream may answer, and the API server
        # would keep that connection.
        ("filter", "OUTPUT", ["-d", SERVICE_RANGE, "-j", "REJECT"]),
        ("filter", "FORWARD", ["-d", SERVICE_RANGE, "-j", "REJECT"]),
        # Some machines drop what is forwarded unless told otherwise.
        ("filter", "FORWARD", ["-s", POD_RANGE, "-j", "ACCEPT"]),
        ("filter", "FORWARD", ["-d", POD_RANGE, "-j", "ACCEPT"]),
    ]


def _command(action: str, rule: tuple[str, str, list[str]]) -> list[str]:
    table, chain, words = rule
    return ["-t", table, action, chain, *words, "-m", "comment", "--comment", f"{NODE}-cluster"]


def _remove_rules(place: Place) -> None:
    proxy = place.binaries / "kube-proxy"
    if proxy.exists():
        subprocess.run([proxy, "--cleanup"], capture_output=True)
    for rule in _rules():
        while subprocess.run(["iptables", "-w", *_command("-D", rule)], capture_output=True).returncode == 0:
            pass  # every copy of it
    for table in ("nat", "filter", "mangle"):  # the kubelet's own chains, which nothing removes
        told = subprocess.run(["iptables", "-w", "-t", table, "-S"], capture_output=True, text=True).stdout
        own = [shlex.split(line) for line in told.splitlines() if "KUBE-" in line]
        for line in own:
            if line[0] == "-A" and not line[1].startswith("KUBE-"):
                subprocess.run(["iptables", "-w", "-t", table, "-D", *line[1:]], capture_output=True)
        for action in ("-F", "-X"):
            for line in own:
                if line[0] == "-N":
                    subprocess.run(["iptables", "-w", "-t", table, action, line[1]], capture_output=True)


def _iptables(*arguments: str) -> None:
    done = subprocess.run(["iptables", "-w", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"`iptables {' '.join(arguments)}` failed: {done.stderr.strip()}")


def _groups() -> list[Path]:
    """The node's group in every hierarchy: one in version 2, one per controller in version 1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS / NODE]
    return [
        folder / NODE
        for folder in sorted(_CGROUPS.iterdir())
        if folder.is_dir() and not folder.is_symlink() and folder.name != "unified"
    ]


def _mounts(place: Place) -> list[str]:
    """Mount points under the cluster's folders."""
    folders = tuple(f"{folder}/" for folder in (place.state, place.run, place.containerd_root))
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if point.startswith(folders)]
