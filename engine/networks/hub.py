"""The Hugging Face hub: a repository's files as a local folder, or one error that says how to get them."""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from engine.errors import ModelError, brief

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def fetch(
    repository: str,
    patterns: Sequence[str],
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder in the hub's cache with those files of a repository that match the patterns, fetched if need be.

    Without network the cache alone must have them. Raises ModelError.
    """
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=local_files_only,
            )
        )
    except RevisionNotFoundError as error:
        raise ModelError(
            f"hub repository {repository!r} has no revision {revision!r}, expected a branch, tag or commit "
            f"of it: look them up on https://huggingface.co/{repository}, or leave the revision out."
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"hub repository {repository!r} is gated and does not open to you, expected an account that may read it: "
            f"accept its licence on https://huggingface.co/{repository}, then run `hf auth login` with a token of that "
            "account."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no repository {repository!r} that is open to you, expected an existing id or a "
            "local folder: check the spelling; for a gated one accept its licence there and run `hf auth "
            "login`."
        ) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _answered(repository, error.__cause__) from error.__cause__
        raise ModelError(
            f"{repository!r} is no local folder, it is not in the hub's cache and the hub was not reached, "
            "expected one of the three: on a machine with network run `hf download "
            f"{repository}{f' --revision {revision}' if revision else ''} --local-dir FOLDER`, bring FOLDER "
            "here and pass its path. For jobs on nodes without network, run it without --local-dir once, with the "
            "same HF_HOME as the jobs, in a folder that all nodes read."
        ) from error
    except HfHubHTTPError as error:
        raise _answered(repository, error) from error
    except (HFValidationError, OSError) as error:
        raise _not_given(repository, error) from error


def _answered(repository: str, error: HfHubHTTPError) -> ModelError:
    """What to say where the hub was reached and answered with an error."""
    status = error.response.status_code
    if status in (401, 403):
        return ModelError(
            f"the hub answered {status} for {repository!r}, expected a token that may read it: run `hf auth login` "
            f"with a valid one, unset HF_TOKEN if it holds an old one, and see https://huggingface.co/{repository} "
            "for whether access has to be asked for."
        )
    if status == 429 or status >= 500:
        return ModelError(
            f"the hub answered {status} for {repository!r}, expected its files: wait and try again; with too many "
            "requests, `hf auth login` raises their limit."
        )
    return _not_given(repository, error)


def _not_given(repository: str, error: Exception) -> ModelError:
    return ModelError(
        f"the hub did not give {repository!r} ({brief(error)}), expected its files: try again, or run "
        f"`hf download {repository}` by hand and see what it says."
    )
