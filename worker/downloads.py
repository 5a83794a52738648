"""Checkpoints on the Hugging Face hub: this machine's copy where there is one, else a download."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from model.checkpoint import digest
from model.errors import ModelError
from worker.errors import Unreachable
from worker.job import HubCheckpoint


def checkpoint_file(source: HubCheckpoint, revision: str | None = None) -> tuple[Path, str]:
    """The local copy of a checkpoint, at another revision than the round's if one is given, and its SHA-256.

    A copy that is not what the hub has is fetched anew. Raises ModelError for a wrong request, Unreachable for a
    failing way, also where the file arrives damaged.
    """
    for anew in (False, True):
        path = _copy(source, revision, anew=anew)
        found, wanted = digest(path), _digest_on_hub(path)
        if wanted in (found, None):
            return path, found
    raise Unreachable(
        f"{source.hub.file} of {source.hub.repo} arrives damaged from the hub: its SHA-256 is {found}, not {wanted}"
    )


def _digest_on_hub(path: Path) -> str | None:
    """The SHA-256 that the hub has for a file in its cache, which names it so; None where it told none."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def _copy(source: HubCheckpoint, revision: str | None, *, anew: bool) -> Path:
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
        if not anew:
            return Path(fetch(local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # not here yet, or a name that the next call refuses
        pass
    damaged = ", and the copy here is damaged" if anew else ""
    failed = f"{wanted.file} of {wanted.repo} cannot be fetched from the hub{damaged}"
    wrong = (EntryNotFoundError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError)
    try:
        return Path(fetch(force_download=anew))
    except Exception as error:
        said = f"{failed}: {type(error).__name__}: {' '.join(str(error).split())}"
        # LocalEntryNotFoundError: the hub did not answer
        if isinstance(error, wrong) and not isinstance(error, LocalEntryNotFoundError):
            raise ModelError(said) from error
        raise Unreachable(said) from error


def revision_of_file(path: Path) -> str | None:
    """The commit that a local copy is of: the hub's cache has it in a folder's name."""
    found = re.search(r"/models--[^/]+/snapshots/([0-9a-f]{40})/", path.as_posix())
    return found.group(1) if found else None
