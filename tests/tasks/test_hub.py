"""Hub data without a network: what this machine has is used, what it lacks is an infrastructure failure."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.load import httpx  # the client that `datasets` itself uses, by whatever name
from datasets.packaged_modules.json.json import Json
from huggingface_hub.errors import RevisionNotFoundError
from task_samples import Bytes, mbpp_rows, write_jsonl

from tasks import Data, DataError, DataUnavailable, HubData, Split, build
from tasks.sources import open_source

COMMIT, OTHER = "a" * 40, "b" * 40
REPO = "someone/mbpp"


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise httpx.ConnectError("[Errno 99] Cannot assign requested address")

    for name in ("dataset_info", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def prepare(tmp_path: Path, commit: str, rows: list[dict[str, Any]]) -> None:
    """Leaves a data set on this machine the way a download does."""
    file = str(write_jsonl(tmp_path / f"{commit}.jsonl", rows))
    builder = Json(
        cache_dir=str(tmp_path / "prepared"),
        dataset_name="mbpp",
        hash=commit,
        data_files={"train": file, "test": file},
    )
    builder.download_and_prepare()
    folder = tmp_path / "datasets" / "someone___mbpp" / "default" / "0.0.0" / commit
    shutil.copytree(builder.cache_dir, folder)
    info = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(info.replace(builder.config_id, "default"))


def hub(**options: Any) -> Data:
    return Data(hub=HubData(**({"repo": REPO, "split": "train", "revision": COMMIT} | options)))


def test_read__copy_on_this_machine(tmp_path: Path) -> None:
    rows = mbpp_rows(train=2, val=1, rest=0)
    prepare(tmp_path, COMMIT, rows)

    (table,) = open_source(hub()).read()

    assert (table.name, table.rows, table.split) == (f"hub {REPO} split train", rows, None)


def test_read__a_table_for_each_split(tmp_path: Path) -> None:
    prepare(tmp_path, COMMIT, mbpp_rows())

    tables = open_source(hub(split=None, train_split="train", val_split="test")).read()

    assert [table.split for table in tables] == [Split.TRAIN, Split.VAL]


def test_read__copy_of_another_commit_is_not_used(tmp_path: Path) -> None:
    prepare(tmp_path, OTHER, mbpp_rows())

    with pytest.raises(
        DataUnavailable, match=f"out of reach, and this machine has no copy of commit {COMMIT}"
    ):
        open_source(hub()).read()


def test_read__nothing_here_and_no_network() -> None:
    with pytest.raises(DataUnavailable, match=f"^hub {REPO}: ConnectionError: Couldn't reach 'someone/mbpp'"):
        open_source(hub()).read()
    assert datasets.config.HF_HUB_OFFLINE is False


def test_read__unknown_split(tmp_path: Path) -> None:
    prepare(tmp_path, COMMIT, mbpp_rows())

    with pytest.raises(DataError, match=f'^hub {REPO}: ValueError: Unknown split "validation"'):
        open_source(hub(split="validation")).read()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DatasetNotFoundError("Dataset doesn't exist"), DataError),
        (ValueError("BuilderConfig 'ful' not found. Available: ['full']"), DataError),
        (ValueError("Couldn't find cache for someone/mbpp for config 'ful'"), DataUnavailable),
        (json.JSONDecodeError("Expecting value", "<html>", 0), DataUnavailable),
        (ConnectionError("Couldn't reach the hub"), DataUnavailable),
        (httpx.ReadTimeout("timed out"), DataUnavailable),
        (OSError(28, "No space left on device"), DataUnavailable),
        (ValueError("There are multiple 'someone/mbpp' configurations in the cache"), DataUnavailable),
        (ImportError("To support decoding audio files, please install ..."), DataError),
        (OSError("Not enough disk space. Needed: 9 GiB"), DataUnavailable),
        (OSError("Consistency check failed: file should be of size 9 but has size 5"), DataUnavailable),
        (gzip.BadGzipFile("Not a gzipped file"), DataError),
    ],
)
def test_read__wrong_request_or_failing_way(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("tasks.hub.prepared", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset_builder", fail)

    with pytest.raises(expected, match=f"^hub {REPO}: {type(error).__name__}: "):
        open_source(hub()).read()


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (httpx.ReadTimeout("timed out"), DataUnavailable),
        (OSError(28, "No space left on device"), DataUnavailable),
        (MemoryError(), DataUnavailable),
        (ValueError("Trailing data"), DataError),
        (None, DataError),
    ],
)
def test_read__failure_while_rows_are_made(
    monkeypatch: pytest.MonkeyPatch, cause: Exception | None, expected: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise DatasetGenerationError("An error occurred while generating the dataset") from cause

    monkeypatch.setattr("tasks.hub.prepared", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset_builder", fail)

    with pytest.raises(expected):
        open_source(hub()).read()


def test_fingerprint__a_commit_needs_no_request() -> None:
    assert open_source(hub()).fingerprint == f"hub:{REPO}@{COMMIT}::all=train"
    pair = hub(config="full", split=None, train_split="train", val_split="test")
    assert open_source(pair).fingerprint == f"hub:{REPO}@{COMMIT}:full:train=train,val=test"


def test_fingerprint__branch_as_last_known_here(tmp_path: Path) -> None:
    refs = tmp_path / "hub" / "datasets--someone--mbpp" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)

    assert open_source(hub(revision=None)).fingerprint == open_source(hub()).fingerprint


def test_fingerprint__branch_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Any, repo: str, revision: str) -> Any:
        assert (repo, revision) == (REPO, "v2")
        return SimpleNamespace(id=repo, sha=COMMIT)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)

    assert open_source(hub(revision="v2")).fingerprint == open_source(hub()).fingerprint


def test_fingerprint__branch_out_of_reach() -> None:
    with pytest.raises(DataUnavailable, match=f"^hub {REPO}: ConnectError: "):
        open_source(hub(revision=None)).fingerprint  # noqa: B018 - the property asks the hub


def test_fingerprint__branch_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        response = httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid"))
        raise RevisionNotFoundError("404: no such revision", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", missing)

    with pytest.raises(DataError, match="RevisionNotFoundError"):
        open_source(hub(revision="v9")).fingerprint  # noqa: B018


def test_build__built_once_needs_neither_network_nor_copy(tmp_path: Path) -> None:
    prepare(tmp_path, COMMIT, mbpp_rows())
    options = {
        "kind": "mbpp",
        "data": hub().model_dump(exclude_none=True),
        "train": 4,
        "val": 3,
        "max_prompt_tokens": 400,
    }
    report = build(options, Bytes(), cache_dir=tmp_path / "cache")[2]
    shutil.rmtree(tmp_path / "datasets")

    assert build(options, Bytes(), cache_dir=tmp_path / "cache")[2] == report
