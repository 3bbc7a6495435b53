"""`python -m tests.cluster COMMAND`: a real Kubernetes with KServe and a gateway on this machine."""

from __future__ import annotations

import argparse
import shlex
import sys

from tests.cluster import build
from tests.cluster.harness import Cluster
from tests.cluster.place import ClusterError


def main() -> int:
    """Parse, call one method, print; errors in one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="say what this machine lacks for a cluster, and change nothing")
    commands.add_parser("up", help="start everything that does not run; builds the components first where needed")
    commands.add_parser("down", help="stop everything and clean up; binaries, images and logs stay")
    commands.add_parser("status", help="each process: does it run, does it answer, where is its log")
    commands.add_parser("env", help="lines to eval: KUBECONFIG and the addresses of registry, object store, gateway")
    commands.add_parser("build", help="build the components into the cache, and start nothing")
    commands.add_parser("restart", help="end one component and start it anew").add_argument("component")
    commands.add_parser("images", help="build and push the images, and apply the manifests with them").add_argument(
        "names", nargs="*", default=["serving", "components"]
    )
    commands.add_parser("gpu-nodes", help="fake nodes with eight GPUs each; 0 removes them").add_argument(
        "count", type=int
    )
    arguments = parser.parse_args()
    try:
        return run(Cluster(), arguments)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1


def run(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """One command on this cluster."""
    match arguments.command:
        case "check":
            build.check_machine(cluster.place)
        case "up":
            cluster.up()
        case "down":
            cluster.down()
        case "status":
            return status(cluster)
        case "env":
            for name, value in Cluster.attach().environment().items():
                print(f"export {name}={shlex.quote(value)}")
            print(f'export PATH={shlex.quote(str(cluster.place.binaries))}:"$PATH"')
        case "build":
            build.prepare_machine(cluster.place)
            build.build(cluster.place)
        case "restart":
            cluster.restart(arguments.component)
        case "images":
            Cluster.attach().use_images(*arguments.names)
        case "gpu-nodes":
            cluster = Cluster.attach()
            cluster.add_gpu_nodes(arguments.count) if arguments.count else cluster.remove_gpu_nodes()
    return 0


def status(cluster: Cluster) -> int:
    """A table; 1 when something that should run does not answer."""
    well = True
    for name, component in cluster.components.items():
        process = cluster.process(name)
        ready = cluster.is_ready(name)
        well &= ready or (component.on_demand and process is None)
        said = "ready" if ready else "silent" if process else "on demand" if component.on_demand else "not running"
        print(f"{name:24} {process.pid if process else '-':>8}  {said:12} {cluster.log(name)}")
    if not well:
        print("`make cluster` starts what does not run")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
