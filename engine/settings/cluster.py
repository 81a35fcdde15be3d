"""Where the workers of a cluster run, and what each of them uses."""

from dataclasses import dataclass, fields

from engine.errors import ConfigError
from engine.settings.fields import check_positive, setting


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Ray workers on one machine or many."""

    ray: str | None = setting(
        None,
        "where Ray workers run (needs the extra ray): local, for a cluster of this machine alone; auto, for the "
        "one that this machine belongs to; or HOST:PORT",
        "WHERE",
        flag="ray",
    )
    workers: int = setting(1, "number of workers to keep running", flag="workers")
    gpus_per_worker: float | None = setting(
        None,
        "GPUs per worker, which may be a fraction such as 0.5; by default 1 if the cluster has GPUs",
        flag="gpus-per-worker",
    )
    cpus_per_worker: int = setting(
        1, "CPUs per worker, which is also its number of threads", flag="cpus-per-worker"
    )

    def __post_init__(self) -> None:
        check_positive(self, "workers", "cpus_per_worker")
        gpus = self.gpus_per_worker
        if gpus is not None and not 0 <= gpus < float("inf"):
            raise ConfigError(
                f"gpus_per_worker is {gpus}, expected a number from 0 up: give 0 to work on CPUs alone."
            )
        if self.ray is not None and self.ray not in ("local", "auto"):
            host, _, port = self.ray.rpartition(":")
            if not host or not port.isdecimal():
                raise ConfigError(
                    f"ray is {self.ray!r}, expected 'local', 'auto' or HOST:PORT: name a cluster."
                )
        if self.ray is None:
            for entry in fields(self):
                if getattr(self, entry.name) != entry.default:
                    raise ConfigError(
                        f"{entry.name} came without ray, expected where the workers run: add 'local', 'auto' or "
                        "HOST:PORT."
                    )


def check_runner(runner: str, share: str | None, cluster: Cluster) -> None:
    """Raise ConfigError if a runner, a share and a cluster cannot be combined."""
    ray = cluster.ray
    if runner == "ray" and ray is None:
        raise ConfigError(
            "runner is 'ray' and `ray` says nothing, expected where the workers run: set `ray` to 'local', 'auto' or "
            "HOST:PORT, and leave the runner out."
        )
    named = f"share is {share!r}" if share is not None else "runner is 'share'"
    if ray is not None and (share is not None or runner == "share"):
        raise ConfigError(
            f"{named} with ray {ray!r}, expected one of them: a cluster divides the work itself. Leave one of them out."
        )
