"""Tokens learned on the workers of a cluster."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from engine.cluster.pool import ClusterError
from engine.cluster.run import made_by_workers, planned, refuse_objects
from engine.cluster.token_worker import TokenWorker
from engine.cluster.usual import Usual
from engine.events import Events
from engine.locks import locked_file
from engine.methods.models import Given
from engine.request import Execution, Request
from engine.runners.token_cohorts import cohort_progress, delete_unfinished
from engine.runners.token_epochs import most_epochs
from engine.settings import TokenLearning
from engine.settings.cluster import Cluster
from engine.settings.plain import to_plain
from engine.tokens.files import read_tokens
from engine.tokens.table import TokenTable

CLASSES = "classes"
"""The task that counts those whose tokens are learned."""


def learn_on_workers(
    request: Request,
    learning: TokenLearning,
    execution: Execution,
    given: Given,
    out: Path,
    events: Events,
) -> TokenTable:
    """Learn the tokens that a file lacks on workers that Ray starts, a cohort of classes at a time.

    given: a plan alone.

    Raises what workers and `engine.runners.learn_tokens.learn_tokens` raise, ClusterError, and InUseError where another
    process learns the same file.
    """
    refuse_objects(given.classifier, given.prior)
    out = out.resolve()
    arguments = {
        "request": request.to_plain(),
        "execution": to_plain(replace(execution, cluster=Cluster())),
        "learning": to_plain(learning),
        "out": str(out),
        "expected": None,
        "plan": planned(given.plan),
    }
    usual = Usual(longest=most_epochs(learning))

    def kept(cohort: int) -> object:
        """What changes with each epoch that is kept."""
        with suppress(FileNotFoundError):
            found = cohort_progress(out, cohort).stat()
            return found.st_ino, found.st_mtime_ns
        return None

    cluster = execution.cluster
    with locked_file(out):
        for _ in made_by_workers(cluster, TokenWorker, arguments, CLASSES, events, usual, kept):
            pass
        if not out.exists():
            raise ClusterError(
                f"all classes are learned and {out} is not there, expected the worker of the last one to write it: run "
                "the same command again, which does."
            )
        delete_unfinished(out)  # a worker may have come too late with a cohort
    return read_tokens(out)
