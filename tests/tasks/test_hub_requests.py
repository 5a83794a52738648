"""Hub data over real requests, to a local stand-in for the hub; each build in a process of its own, as at work."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from task_samples import mbpp_rows, write_jsonl

from tests.hub_stand_in import HubStandIn, serving

REPO = "someone/mbpp"
BUILD = """
import json, sys
from model.tokenizers import get_tokenizer
from tasks import TaskError, build, hub, parse_config
hub.SILENCE = 2.0
try:
    train, val, report = build(parse_config(json.loads(sys.argv[1])), get_tokenizer("bytes"))
    print(report.source, report.digest)
except TaskError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    write_repository(tmp_path / "repositories", rest=1)
    with serving(tmp_path / "repositories") as server:
        yield server


def write_repository(root: Path, **rows: int) -> None:
    folder = root / "datasets" / REPO
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", mbpp_rows(**rows))


def read(hub: HubStandIn, folder: Path, **changes: Any) -> str:
    """What a build says, run in a new process and in `folder`."""
    options = {
        "kind": "mbpp",
        "data": {"hub": {"repo": REPO, "split": "train"} | changes},
        "train": 4,
        "val": 3,
        "notes": {"fill": False},
    }
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(hub.root.parent / "hf")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, json.dumps(options)],
        env=environment | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_read__each_commit_that_is_here_without_asking(hub: HubStandIn, tmp_path: Path) -> None:
    """`datasets` itself takes whatever was prepared last."""
    first = hub.commit(hub.root / "datasets" / REPO)
    before = read(hub, tmp_path, revision=first)
    write_repository(hub.root, rest=2)
    second = hub.commit(hub.root / "datasets" / REPO)
    after = read(hub, tmp_path, revision=second)
    assert first in before
    assert second in after
    hub.close()

    assert read(hub, tmp_path, revision=first) == before
    assert read(hub, tmp_path, revision=second) == after


def test_read__branch_means_what_it_meant_here(hub: HubStandIn, tmp_path: Path) -> None:
    before = read(hub, tmp_path)
    write_repository(hub.root, rest=2)

    assert read(hub, tmp_path) == before


@pytest.mark.parametrize("content", ["", "f00", "é" * 40])
def test_read__damaged_note_of_a_branch_is_asked_for_again(
    hub: HubStandIn, tmp_path: Path, content: str
) -> None:
    ref = hub.root.parent / "hf" / "hub" / "datasets--someone--mbpp" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(content)

    commit = hub.commit(hub.root / "datasets" / REPO)
    assert f"@{commit}:" in read(hub, tmp_path)
    assert ref.read_text() == commit


def test_read__download_that_was_killed_does_not_hide_a_copy(hub: HubStandIn, tmp_path: Path) -> None:
    before = read(hub, tmp_path)
    (info,) = (hub.root.parent / "hf" / "datasets").rglob("dataset_info.json")
    info.parent.with_name(f"{'a' * 40}.incomplete").mkdir()
    hub.close()

    assert read(hub, tmp_path) == before


def test_read__default_configuration_is_remembered(hub: HubStandIn, tmp_path: Path) -> None:
    readme = (
        "---\nconfigs:\n- config_name: full\n  data_files:\n  - split: train\n    path: train.jsonl\n---\n"
    )
    (hub.root / "datasets" / REPO / "README.md").write_text(readme)
    before = read(hub, tmp_path)
    named = read(hub, tmp_path, config="full")
    hub.close()

    assert read(hub, tmp_path) == before
    assert read(hub, tmp_path, config="full") == named
    assert before.split()[1] == named.split()[1]


def test_read__unknown_configuration(hub: HubStandIn, tmp_path: Path) -> None:
    said = read(hub, tmp_path, config="other")

    assert said.startswith(f"DataError: hub {REPO}: ValueError: BuilderConfig 'other' not found")


CONFIGURATIONS = """---
configs:
- config_name: full
  default: true
  data_files: [{split: train, path: train.jsonl}]
- config_name: sanitized
  data_files: [{split: train, path: train.jsonl}]
- config_name: other
  data_files: [{split: train, path: train.jsonl}]
---
"""


@pytest.mark.parametrize("prepared", [["sanitized"], ["sanitized", "other"]])
def test_read__other_configuration_is_no_substitute(
    hub: HubStandIn, tmp_path: Path, prepared: list[str]
) -> None:
    """`datasets`, out of reach of the hub, takes whatever was prepared last."""
    (hub.root / "datasets" / REPO / "README.md").write_text(CONFIGURATIONS)
    for config in prepared:
        assert read(hub, tmp_path, config=config).startswith("hub:")
    read(hub, tmp_path, split="nothing")  # remembers what main means; the split is wrong
    notes = list((hub.root.parent / "hf" / "datasets").rglob("*.default_config"))
    for note in [*notes, *(hub.root.parent / "hf" / "datasets").rglob("full")]:
        shutil.rmtree(note) if note.is_dir() else note.unlink()
    hub.close()

    assert read(hub, tmp_path).startswith("DataUnavailable: ")
    assert list((hub.root.parent / "hf" / "datasets").rglob("*.default_config")) == []


@pytest.mark.parametrize("damage", ["gone", "cut short", "note empty"])
def test_read__damaged_copy_is_prepared_again(hub: HubStandIn, tmp_path: Path, damage: str) -> None:
    before = read(hub, tmp_path)
    folder = hub.root.parent / "hf" / "datasets"
    (arrow,) = folder.rglob("*.arrow")
    (note,) = folder.rglob("*.default_config")
    if damage == "gone":
        arrow.unlink()
    elif damage == "cut short":
        arrow.write_bytes(arrow.read_bytes()[:100])
    else:
        note.write_text("")

    assert read(hub, tmp_path) == before
    hub.close()
    assert read(hub, tmp_path) == before


def test_read__cache_that_cannot_be_written_costs_a_request_only(hub: HubStandIn, tmp_path: Path) -> None:
    folder = hub.root.parent / "hf" / "hub" / "datasets--someone--mbpp"
    folder.mkdir(parents=True)
    (folder / "refs").write_text("not a folder")

    assert read(hub, tmp_path).startswith("hub:")


def damaged_parquet(rows: bytes) -> bytes:
    """A file whose description of itself, at its end, is overwritten."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([json.loads(row) for row in rows.splitlines()]), buffer)
    content = buffer.getvalue()
    return content[:-200] + b"\xff" * 192 + content[-8:]


@pytest.mark.parametrize(
    ("name", "damaged"),
    [("train.parquet", damaged_parquet), ("train.jsonl.gz", lambda rows: gzip.compress(rows)[:-40])],
)
def test_read__damaged_file_on_the_hub_is_no_outage(
    hub: HubStandIn, tmp_path: Path, name: str, damaged: Callable[[bytes], bytes]
) -> None:
    repository = hub.root / "datasets" / REPO
    rows = (repository / "train.jsonl").read_bytes()
    (repository / "train.jsonl").unlink()
    (repository / name).write_bytes(damaged(rows))

    assert read(hub, tmp_path).startswith("DataError: ")


@pytest.mark.parametrize(
    "content",
    ['{"text": "a"', '{"text": "a"}\n{"words": [1]}\n'],
    ids=["malformed", "columns differ"],
)
def test_read__data_that_cannot_be_read_are_no_outage(hub: HubStandIn, tmp_path: Path, content: str) -> None:
    (hub.root / "datasets" / REPO / "train.jsonl").write_text(content)

    said = read(hub, tmp_path)

    assert said.startswith("DataError: ")
    assert "An error occurred while generating the dataset" not in said


def test_read__silent_hub_is_given_up(hub: HubStandIn, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub.close()
        hub.server_address = silent.getsockname()

        said = read(hub, tmp_path)

    assert said.startswith(f"DataUnavailable: hub {REPO}: ReadTimeout: ")


def test_read__local_folder_of_the_same_name(hub: HubStandIn, tmp_path: Path) -> None:
    (tmp_path / REPO).mkdir(parents=True)
    write_jsonl(tmp_path / REPO / "train.jsonl", mbpp_rows(rest=3))

    assert "a local file or folder of this name hides it" in read(hub, tmp_path)
