"""Checkpoints on the Hugging Face hub: this machine's copy where there is one, else a download."""

from __future__ import annotations

from pathlib import Path

from model.errors import ModelError
from worker.errors import Unreachable
from worker.job import HubCheckpoint


def checkpoint_file(source: HubCheckpoint) -> Path:
    """The local copy of a checkpoint; raises ModelError for a wrong request, Unreachable for a failing way."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ModuleNotFoundError:
        raise ModelError("checkpoints on the hub need the extra `hub`: pip install 'fsq[hub]'") from None
    wanted = source.hub
    try:
        return Path(
            hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, local_files_only=True)
        )
    except (LocalEntryNotFoundError, ValueError):  # not here yet, or a name that the next call refuses
        pass
    failed = f"{wanted.file} of {wanted.repo} cannot be fetched from the hub"
    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))
    except (
        LocalEntryNotFoundError
    ) as error:  # also an EntryNotFoundError, but says that the hub did not answer
        raise Unreachable(f"{failed}: {_cause(error)}") from error
    except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"{failed}: {_cause(error)}") from error
    except Exception as error:
        raise Unreachable(f"{failed}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
