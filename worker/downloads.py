"""Checkpoints on the Hugging Face hub: this machine's copy where there is one, else a download."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from model.errors import ModelError
from worker.errors import Unreachable
from worker.job import HubCheckpoint


def checkpoint_file(source: HubCheckpoint, revision: str | None = None) -> Path:
    """The local copy of a checkpoint, at another revision than the round's if one is given.

    Raises ModelError for a wrong request, Unreachable for a failing way.
    """
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
    fetch = partial(hf_hub_download, wanted.repo, wanted.file, revision=revision or wanted.revision)
    try:
        return Path(fetch(local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # not here yet, or a name that the next call refuses
        pass
    failed = f"{wanted.file} of {wanted.repo} cannot be fetched from the hub"
    wrong = (EntryNotFoundError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError)
    try:
        return Path(fetch())
    except Exception as error:
        said = f"{failed}: {type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, wrong) and not isinstance(
            error, LocalEntryNotFoundError
        ):  # the hub did not answer
            raise ModelError(said) from error
        raise Unreachable(said) from error


def revision_of_file(path: Path) -> str | None:
    """The commit that a local copy is of: the hub's cache has it in a folder's name."""
    found = re.search(r"/models--[^/]+/snapshots/([0-9a-f]{40})/", path.as_posix())
    return found.group(1) if found else None
