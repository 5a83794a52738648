"""Data sets of the Hugging Face hub, at one commit, from this machine's copy where there is one.

Loading scripts are never run (the `datasets` library has no way to any more).
"""

from __future__ import annotations

import gzip
import json
import lzma
import sys
import traceback
import zipfile
import zlib
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

from tasks.config import HubData
from tasks.errors import DataError, DataUnavailable
from tasks.hub_copies import (
    COMMIT,
    damages,
    known_commit,
    prepared,
    remember_commit,
    remember_default_config,
)
from tasks.sources import Table
from tasks.splits import Split

SILENCE = 30.0  # seconds without a byte after which the hub counts as out of reach


class HubSource:
    """One split to be divided, or a training and a validation split."""

    def __init__(self, hub: HubData) -> None:
        self._hub = hub
        try:
            import datasets  # noqa: F401
        except ImportError:
            raise DataError(f"hub {hub.repo}: needs the datasets library: pip install 'fsq[hub]'") from None
        _set_up_library()

    @property
    def fingerprint(self) -> str:
        """Repository, commit, configuration and splits; a branch or tag costs a request unless known here."""
        splits = ",".join(f"{split or 'all'}={name}" for split, name in self._splits.items())
        return f"hub:{self._hub.repo}@{self.commit}:{self._hub.config or ''}:{splits}"

    @cached_property
    def commit(self) -> str:
        """The commit of the revision: of a branch or tag, what it meant when this machine last asked."""
        if self._hub.revision and COMMIT.fullmatch(self._hub.revision):
            return self._hub.revision
        try:
            if known := known_commit(self._hub):
                return known
            commit = _ask_for_commit(self._hub)
            remember_commit(self._hub, commit)
        except Exception as error:
            _raise_as_task_error(self._hub, error)
        return commit

    def read(self) -> list[Table]:
        """A table for each split. DataError: no such data set, configuration or split, or data that cannot be
        read; DataUnavailable: hub out of reach."""
        try:
            copy = prepared(self._hub, self.commit)
            if copy is not None:
                with suppress(*damages()):
                    return self._tables(copy)
            return self._tables(_download(self._hub, self.commit, again=copy is not None))
        except Exception as error:
            _raise_as_task_error(self._hub, error)

    def _tables(self, builder: Any) -> list[Table]:
        return [self._table(builder, split, name) for split, name in self._splits.items()]

    @property
    def _splits(self) -> dict[Split | None, str]:
        named = {None: self._hub.split, Split.TRAIN: self._hub.train_split, Split.VAL: self._hub.val_split}
        return {split: name for split, name in named.items() if name is not None}

    def _table(self, builder: Any, split: Split | None, name: str) -> Table:
        source = f"hub {self._hub.repo} split {name}"
        rows = builder.as_dataset(split=name).to_list()
        if not rows:
            raise DataError(f"{source}: holds no rows")
        return Table(source, rows, split)


@cache
def _set_up_library() -> None:
    """Gives every request a time limit, and keeps progress bars out of files."""
    import datasets
    import huggingface_hub
    from huggingface_hub.utils._http import default_client_factory

    def client() -> Any:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], _limit_waiting]}
        return made

    huggingface_hub.set_client_factory(client)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _limit_waiting(request: Any) -> None:
    """Most of the library's requests would wait for ever."""
    asked = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        phase: SILENCE if asked.get(phase) is None else asked[phase]
        for phase in ("connect", "read", "write", "pool")
    }


def _ask_for_commit(hub: HubData) -> str:
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(hub.repo, revision=hub.revision or "main").sha
    if commit is None:
        raise DataUnavailable(f"hub {hub.repo}: the hub did not say which commit {hub.revision or 'main'} is")
    return commit


def _download(hub: HubData, commit: str, *, again: bool) -> Any:
    """Fetches and prepares the data; `again`: although a (damaged) copy is there."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    if Path(hub.repo).exists():
        raise DataError(
            f"hub {hub.repo}: a local file or folder of this name hides it; work in another folder"
        )
    builder = datasets.load_dataset_builder(hub.repo, hub.config, revision=commit)
    # out of reach, `datasets` takes what was prepared last, whatever was asked for
    if isinstance(builder, Cache):
        raise DataUnavailable(
            f"hub {hub.repo}: out of reach, and this machine has no copy of commit {commit}"
        )
    builder.download_and_prepare(download_mode="reuse_cache_if_exists" if again else None)
    if hub.config is None:
        remember_default_config(hub, commit, builder.config.name)
    return builder


def _raise_as_task_error(hub: HubData, error: Exception) -> NoReturn:
    """Says whether request or data were wrong (DataError) or the way to the hub (DataUnavailable)."""
    from datasets.exceptions import DatasetGenerationError

    if isinstance(error, (DataError, DataUnavailable)):
        raise error
    cause = error
    while isinstance(cause, DatasetGenerationError) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if isinstance(cause, StopIteration):  # what `datasets` makes of files without rows
        raise DataError(f"hub {hub.repo}: holds no rows") from error
    summary = f"hub {hub.repo}: {type(cause).__name__}: {' '.join(str(cause).split())}"
    if _is_wrong_request(cause) or (_is_in_the_data(cause, generating=cause is not error)):
        raise DataError(summary) from error
    raise DataUnavailable(summary) from error


def _is_wrong_request(error: Exception) -> bool:
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    no_data = (DataFilesNotFoundError, DatasetNotFoundError, EmptyDatasetError)
    # an import: a library that this kind of data needs
    if isinstance(error, (*no_data, RepositoryNotFoundError, RevisionNotFoundError, ImportError)):
        return True
    if isinstance(error, ValueError):  # unknown configuration or split
        no_answer = isinstance(error, (OSError, json.JSONDecodeError))
        fell_back = any(
            words in str(error) for words in ("Couldn't find cache", "configurations in the cache")
        )
        return not no_answer and not fell_back
    return isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error)


def _is_in_the_data(error: Exception, *, generating: bool) -> bool:
    """Whether files that have arrived cannot be read; `generating`: it happened while rows were made of them."""
    from datasets.exceptions import DatasetGenerationError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    if isinstance(error, (EOFError, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile, zlib.error)):
        return True
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError, MemoryError)):
        return False
    if isinstance(error, OSError):
        return error.errno is None and _was_raised_in(error, "pyarrow")  # a file that it does not understand
    return generating or isinstance(error, DatasetGenerationError)


def _was_raised_in(error: Exception, package: str) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and package in Path(frames[-1].filename).parts
