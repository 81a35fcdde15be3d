"""Workers that Ray starts, on this machine or on many. The only module that imports ray.

Ray is kept quiet and to itself: no usage reports, and a cluster of this machine alone asks for a token.
"""

import os
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from textwrap import shorten
from typing import Any

import torch

from engine.cluster.pool import Answer, ClusterError, Failed, Handle, Lost, Made, Ready
from engine.cluster.room import check_room
from engine.datasets.shared import OtherKindError
from engine.errors import EngineError, MissingExtraError, brief
from engine.memory.budget import BudgetError
from engine.memory.micro_batch import is_out_of_memory
from engine.settings.cluster import Cluster

LOOPBACK = "127.0.0.2"
"""Ray turns 127.0.0.1 into the machine's other address."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
OBJECT_STORE_BYTES = 80 * 2**20
"""Parts go to the store of the run, not through Ray's."""
NODE_DIED = "its node has died"
ANSWERS_WITHIN_S = 10.0
STARTS_HERE = 3
"""Ray gives up starting a node after 30 s, which a busy machine may need."""


def connect(cluster: Cluster) -> Any:
    """Join the cluster, or start one here. Returns the module. Raises MissingExtraError, ClusterError."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    imported = sys.modules.get("ray")
    if imported is not None:
        _check_imported(cluster, imported)
    elif cluster.ray == "local":  # it reads these when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "ray is not installed, expected it for workers of a cluster: `pip install 'ddis[ray]'`, or make shares of "
            "the run."
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.ray == "local":
        options |= {
            "address": "local",
            "num_cpus": cluster.workers * cluster.cpus_per_worker,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": LOOPBACK,
        }
    else:
        _check_answers(cluster)
        options["address"] = cluster.ray
    for left in reversed(range(STARTS_HERE if cluster.ray == "local" else 1)):
        if ray.is_initialized():
            break
        try:
            _take_token(ray, cluster)
            ray.init(**options)
        except Exception as error:  # of no kind of its own, where a node takes long to start
            ray.shutdown()
            if not left:
                raise _no_cluster(cluster, error) from error
    return ray


def _check_imported(cluster: Cluster, ray: Any) -> None:
    """Raise ClusterError where the caller's own use of Ray decides what the run would be carried out by."""
    if ray.is_initialized():
        raise ClusterError(
            "Ray is initialised in this process already, by `ray.init` or another run, expected to do that here: it "
            "would end with the run. Call `ray.shutdown()` first, or begin the run in a process of its own."
        )
    if cluster.ray == "local" and not _asks_for_token(ray):
        raise ClusterError(
            "ray was imported before the run asked for a token, expected a cluster of this machine that only its own "
            "processes may use: without one, whoever reaches its ports runs code on it. Take `import ray` out, or "
            "before it set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to a secret."
        )


def _asks_for_token(ray: Any) -> bool:
    """Whether the clusters that an imported Ray starts ask for a token: its environment was read at the import."""
    mode = ray._raylet.get_authentication_mode()
    return bool(mode == ray._raylet.AuthenticationMode.TOKEN)


def _check_answers(cluster: Cluster) -> None:
    """Raise ClusterError where nothing listens at HOST:PORT, which Ray would try to reach for minutes."""
    host, _, port = str(cluster.ray).rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN_S).close()
    # The last two: a port beyond 65535, no name of a host.
    except (OSError, OverflowError, UnicodeError) as error:
        raise _no_cluster(cluster, error) from error


def _take_token(ray: Any, cluster: Cluster) -> None:
    """Use the token at hand where the cluster at HOST:PORT asks for one, as Ray itself does for 'auto' alone.

    `ray start` asks for one wherever there is one. It is not used untried: with a token, a driver joins a cluster that
    has none, and its workers die.
    """
    if cluster.ray in ("local", "auto") or "RAY_AUTH_MODE" in os.environ:
        return
    of_ray = ray._raylet
    if not hasattr(of_ray, "AuthenticationTokenLoader"):  # another version
        return
    try:
        of_ray.GcsClient(address=cluster.ray)
    except ray.exceptions.AuthenticationError:
        if not of_ray.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            raise  # in token mode Ray would abort the process
        os.environ["RAY_AUTH_MODE"] = "token"
        of_ray.Config.initialize("")  # it reads the environment again
        of_ray.GcsClient(address=cluster.ray)


def _no_cluster(cluster: Cluster, error: Exception) -> ClusterError:
    if cluster.ray == "local":
        return ClusterError(
            f"Ray did not start on this machine ({brief(error)}), expected it to: run the same command again "
            "when the machine is less busy, or make shares of the run."
        )
    if type(error).__name__ == "AuthenticationError":
        return ClusterError(
            f"the cluster of Ray at {cluster.ray!r} refused this process ({brief(error)}), expected its token: set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with it, or copy it to ~/.ray/auth_token."
        )
    return ClusterError(
        f"no cluster of Ray answers at {cluster.ray!r} ({brief(error)}), expected one: start it with "
        "`ray start --head`, name its HOST:PORT, or take 'local'."
    )


class RayPool:
    """Actors that are never restarted or retried by Ray: the driver decides.

    worker: their class, with `hello()` and `make(part)`, as `engine.cluster.worker.Worker`. arguments: what each is
    made with, by name, besides its number of threads; those that start later get what is changed here.
    """

    def __init__(self, cluster: Cluster, worker: type, arguments: dict[str, Any]) -> None:
        self.ray = connect(cluster)
        gpus = cluster.gpus_per_worker
        if gpus is None:
            gpus = 1 if self.ray.cluster_resources().get("GPU", 0) >= 1 else 0
        try:
            check_room(self.ray, cluster.cpus_per_worker, gpus)
        except ClusterError:
            self.close()
            raise
        self.threads = cluster.cpus_per_worker
        self.actor = self.ray.remote(worker).options(
            num_cpus=cluster.cpus_per_worker, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        self.arguments = arguments
        self.calls: dict[Any, tuple[Handle, int | None]] = {}

    def start(self) -> Handle:
        worker = self.actor.remote(**self.arguments, threads=self.threads)
        self.calls[worker.hello.remote()] = worker, None
        return worker

    def give(self, worker: Handle, part: int) -> None:
        self.calls[worker.make.remote(part)] = worker, part  # type: ignore[attr-defined]

    def answers(self, seconds: float) -> Sequence[Answer]:
        if not self.calls:
            return []
        done, _ = self.ray.wait([*self.calls], num_returns=1, timeout=seconds)
        more, _ = self.ray.wait([*self.calls], num_returns=len(self.calls), timeout=0)
        return [self._answer(call) for call in dict.fromkeys([*done, *more])]

    def stop(self, worker: Handle) -> None:
        for call in [call for call, (of, _) in self.calls.items() if of is worker]:
            del self.calls[call]
        with suppress(Exception):  # it is gone already
            self.ray.kill(worker)

    def close(self) -> None:
        """Leave the cluster; one of this machine alone ends."""
        self.ray.shutdown()

    def _answer(self, call: Any) -> Answer:
        worker, part = self.calls.pop(call)
        errors = self.ray.exceptions
        try:
            value = self.ray.get(call)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            return answer_to(worker, part, cause)
        except errors.RayError as error:
            return lost_to(worker, part, error, errors)
        return Ready(worker, value) if part is None else Made(worker, part, value)


def lost_to(worker: Handle, part: int | None, error: Exception, errors: Any) -> Lost:
    """The loss of a worker, of which Ray says why. errors: ray.exceptions.

    The death of a node is known by its words alone. A worker that cannot be reached is on a node that died just now: of
    one whose process died, its node says so.
    """
    said = str(error)
    gone = (errors.NodeDiedError, errors.ActorUnavailableError, errors.LocalRayletDiedError)
    with_node = isinstance(error, gone) or getattr(error, "preempted", False) or NODE_DIED in said
    reason = said.rpartition("\tip: ")[2].partition("\n")[2]  # past the actor's name and address
    return Lost(worker, part, shorten(reason, 200) if reason else brief(error), with_node)


def answer_to(worker: Handle, part: int | None, error: Exception) -> Lost | Failed:
    """What an error of a worker means: what another machine may be free of, or the caller's mistake.

    A worker that ran out of memory or whose GPU failed is lost, and so is one whose machine does not suit the run.
    """
    of_its_start = part is None and isinstance(error, OtherKindError | BudgetError)
    of_its_gpu = isinstance(error, torch.AcceleratorError)
    if of_its_start or of_its_gpu or is_out_of_memory(error):
        ours = isinstance(error, EngineError)
        return Lost(worker, part, str(error) if ours else brief(error))
    return Failed(worker, part, error)
