"""Whether a cluster of Ray has room for a worker."""

from typing import Any

from engine.cluster.pool import ClusterError


def check_room(ray: Any, cpus: float, gpus: float) -> None:
    """Raise ClusterError where no node could ever hold a worker, which Ray would wait for without a word.

    A cluster that starts nodes itself, as KubeRay's may, is taken at its word.
    """
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive")]
    has = [(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
    if any(node[0] >= cpus and node[1] >= gpus for node in has) or _starts_nodes(ray):
        return
    largest = max(has, key=lambda node: (node[1] >= gpus, node[0], node[1]), default=(0, 0))
    raise ClusterError(
        f"a worker takes {_amounts(cpus, gpus)} and no node of the cluster has as much (the nearest has "
        f"{_amounts(*largest)}), expected a node that can hold one: lower `gpus_per_worker` or `cpus_per_worker`, or "
        "add such a node first."
    )


def _amounts(cpus: float, gpus: float) -> str:
    return " and ".join(
        f"{number:g} {name}{'s' * (number != 1)}" for number, name in ((cpus, "CPU"), (gpus, "GPU"))
    )


def _starts_nodes(ray: Any) -> bool:
    """Whether an autoscaler has said which nodes it may start. Ray itself asks no other way."""
    return ray._private.state.state.get_cluster_config() is not None
