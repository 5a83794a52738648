"""Data sets of the Hugging Face hub, at one commit, from this machine's copy where there is one.

Loading scripts are never run (the `datasets` library has no way to any more).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from tasks.config import HubData
from tasks.errors import DataError, DataUnavailable
from tasks.sources import Table
from tasks.splits import Split

COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSource:
    """One split to be divided, or a training and a validation split."""

    def __init__(self, hub: HubData) -> None:
        self._hub = hub
        try:
            import datasets  # noqa: F401
        except ImportError:
            raise DataError(f"hub {hub.repo}: needs the datasets library: pip install 'fsq[hub]'") from None

    @property
    def fingerprint(self) -> str:
        """Repository, commit, configuration and splits; a branch or tag costs a request unless known here."""
        splits = ",".join(f"{split or 'all'}={name}" for split, name in self._splits.items())
        return f"hub:{self._hub.repo}@{self.commit}:{self._hub.config or ''}:{splits}"

    def read(self) -> list[Table]:
        """A table for each split. DataError: no such data set, configuration or split; DataUnavailable:
        hub out of reach."""
        _show_progress_to_people_only()
        try:
            builder = _local_builder(self._hub, self.commit) or _remote_builder(self._hub, self.commit)
            return [self._table(builder, split, name) for split, name in self._splits.items()]
        except Exception as error:
            _raise_as_task_error(self._hub, error)

    @property
    def _splits(self) -> dict[Split | None, str]:
        named = {None: self._hub.split, Split.TRAIN: self._hub.train_split, Split.VAL: self._hub.val_split}
        return {split: name for split, name in named.items() if name is not None}

    @cached_property
    def commit(self) -> str:
        """The commit of the revision. A branch or tag keeps the meaning that it first had on this machine."""
        revision = self._hub.revision or "main"
        if COMMIT.fullmatch(revision):
            return revision
        try:
            known = _ref_file(self._hub.repo, revision)
            if known.is_file():
                return known.read_text().strip()
            commit = _remote_commit(self._hub.repo, revision)
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(commit)
            return commit
        except Exception as error:
            _raise_as_task_error(self._hub, error)

    def _table(self, builder: Any, split: Split | None, name: str) -> Table:
        source = f"hub {self._hub.repo} split {name}"
        rows = builder.as_dataset(split=name).to_list()
        if not rows:
            raise DataError(f"{source}: holds no rows")
        return Table(source, rows, split)


def _ref_file(repo: str, revision: str) -> Path:
    """Where the hub's cache keeps the commit that a branch or tag means."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repo, repo_type="dataset")
    return Path(constants.HF_HUB_CACHE) / folder / "refs" / revision


def _remote_commit(repo: str, revision: str) -> str:
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(repo, revision=revision).sha
    if commit is None:
        raise DataUnavailable(f"hub {repo}: the hub did not say which commit {revision} is")
    return commit


def _local_builder(hub: HubData, commit: str) -> Any | None:
    """The data set as an earlier download left it; None where this machine has no copy of `commit`."""
    import datasets

    with _offline():
        try:
            builder = datasets.load_dataset_builder(hub.repo, hub.config, revision=commit)
            builder.download_and_prepare()
        except (OSError, ValueError):
            return None
    return builder if builder.hash == commit else None


@contextmanager
def _offline() -> Iterator[None]:
    """`datasets` reads HF_HUB_OFFLINE once, at import; this is the variable it keeps it in."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _remote_builder(hub: HubData, commit: str) -> Any:
    import datasets

    builder = datasets.load_dataset_builder(hub.repo, hub.config, revision=commit)
    if builder.hash != commit:
        raise DataUnavailable(
            f"hub {hub.repo}: out of reach, and this machine has commit {builder.hash}, not {commit}"
        )
    builder.download_and_prepare()
    return builder


def _show_progress_to_people_only() -> None:
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _raise_as_task_error(hub: HubData, error: Exception) -> NoReturn:
    """Says whether the request was wrong (DataError) or the way to the hub (DataUnavailable)."""
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, (DataError, DataUnavailable)):
        raise error
    summary = f"hub {hub.repo}: {type(error).__name__}: {' '.join(str(error).split())}"
    wrong = (
        DataFilesNotFoundError,
        DatasetNotFoundError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        ValueError,  # unknown configuration or split
    )
    is_script = isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error)
    if isinstance(error, wrong) or is_script:
        raise DataError(summary) from error
    raise DataUnavailable(summary) from error
