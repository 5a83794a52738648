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
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from task_samples import mbpp_rows, write_jsonl

from tests.hub_stand_in import HubStandIn, reserved_port, serving

REPO = "someone/mbpp"
Read = Callable[..., str]


class Builder(NamedTuple):
    """The process that builds are forked from, for the hub at this port."""

    port: int
    folder: Path  # with HF_HOME and all that a process says
    process: subprocess.Popen[str]

    @property
    def cache(self) -> Path:
        return self.folder / "hf"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """`hub_builds`, which has read the environment: the hub's address and the cache are the same for all tests."""
    folder = tmp_path_factory.mktemp("builder")
    environment = os.environ | {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    with (
        reserved_port() as port,
        (folder / "errors").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", Path(__file__).with_name("hub_builds.py")],
            env=environment | {"HF_ENDPOINT": f"http://127.0.0.1:{port}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Builder(port, folder, process)
        finally:
            process.kill()


@pytest.fixture
def hub(builder: Builder, tmp_path: Path) -> Iterator[HubStandIn]:
    """Before anything of it is in the cache."""
    shutil.rmtree(builder.cache, ignore_errors=True)
    write_repository(tmp_path / "repositories", rest=1)
    with serving(tmp_path / "repositories", builder.port) as server:
        yield server


def write_repository(root: Path, **rows: int) -> None:
    folder = root / "datasets" / REPO
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", mbpp_rows(**rows))


@pytest.fixture
def read(builder: Builder, hub: HubStandIn, tmp_path: Path) -> Read:
    """What a build says, run in a new process and in the folder of the test."""

    def call(*, silence: float | None = None, **changes: Any) -> str:
        options = {
            "kind": "mbpp",
            "data": {"hub": {"repo": REPO, "split": "train"} | changes},
            "train": 4,
            "val": 3,
            "notes": {"fill": False},
        }
        said = builder.folder / "said"
        assert builder.process.stdin is not None
        assert builder.process.stdout is not None
        print(
            json.dumps([str(tmp_path), options, str(said), silence]), file=builder.process.stdin, flush=True
        )
        assert builder.process.stdout.readline() == "0\n", (builder.folder / "errors").read_text()
        return said.read_text()

    return call


def test_read__each_commit_that_is_here_without_asking(read: Read, hub: HubStandIn) -> None:
    """`datasets` itself takes whatever was prepared last."""
    first = hub.commit(hub.root / "datasets" / REPO)
    before = read(revision=first)
    write_repository(hub.root, rest=2)
    second = hub.commit(hub.root / "datasets" / REPO)
    after = read(revision=second)
    assert first in before
    assert second in after
    hub.close()

    assert read(revision=first) == before
    assert read(revision=second) == after


def test_read__branch_means_what_it_meant_here(read: Read, hub: HubStandIn) -> None:
    before = read()
    write_repository(hub.root, rest=2)

    assert read() == before


@pytest.mark.parametrize("content", ["", "f00", "é" * 40])
def test_read__damaged_note_of_a_branch_is_asked_for_again(
    read: Read, hub: HubStandIn, builder: Builder, content: str
) -> None:
    ref = builder.cache / "hub" / "datasets--someone--mbpp" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(content)

    commit = hub.commit(hub.root / "datasets" / REPO)
    assert f"@{commit}:" in read()
    assert ref.read_text() == commit


def test_read__download_that_was_killed_does_not_hide_a_copy(
    read: Read, hub: HubStandIn, builder: Builder
) -> None:
    before = read()
    (info,) = (builder.cache / "datasets").rglob("dataset_info.json")
    info.parent.with_name(f"{'a' * 40}.incomplete").mkdir()
    hub.close()

    assert read() == before


def test_read__default_configuration_is_remembered(read: Read, hub: HubStandIn) -> None:
    readme = (
        "---\nconfigs:\n- config_name: full\n  data_files:\n  - split: train\n    path: train.jsonl\n---\n"
    )
    (hub.root / "datasets" / REPO / "README.md").write_text(readme)
    before = read()
    named = read(config="full")
    hub.close()

    assert read() == before
    assert read(config="full") == named
    assert before.split()[1] == named.split()[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "EmptyDatasetError: The directory at hf://datasets/"),
        ({"README.md": "# Nothing yet"}, "EmptyDatasetError: The directory at hf://datasets/"),
        ({"train.jsonl": ""}, "holds no rows"),
    ],
    ids=["no files", "a README only", "an empty file"],
)
def test_read__a_repository_without_data(
    read: Read, hub: HubStandIn, content: dict[str, str], said: str
) -> None:
    """To ask again would not help."""
    repository = hub.root / "datasets" / REPO
    shutil.rmtree(repository)
    repository.mkdir()
    for name, text in content.items():
        (repository / name).write_text(text)

    assert read().startswith(f"DataError: hub {REPO}: {said}")


def test_read__unknown_configuration(read: Read, hub: HubStandIn) -> None:
    said = read(config="other")

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
    read: Read, hub: HubStandIn, builder: Builder, prepared: list[str]
) -> None:
    """`datasets`, out of reach of the hub, takes whatever was prepared last."""
    (hub.root / "datasets" / REPO / "README.md").write_text(CONFIGURATIONS)
    for config in prepared:
        assert read(config=config).startswith("hub:")
    read(split="nothing")  # remembers what main means; the split is wrong
    notes = list((builder.cache / "datasets").rglob("*.default_config"))
    for note in [*notes, *(builder.cache / "datasets").rglob("full")]:
        shutil.rmtree(note) if note.is_dir() else note.unlink()
    hub.close()

    assert read().startswith("DataUnavailable: ")
    assert list((builder.cache / "datasets").rglob("*.default_config")) == []


@pytest.mark.parametrize("damage", ["gone", "cut short", "note empty"])
def test_read__damaged_copy_is_prepared_again(
    read: Read, hub: HubStandIn, builder: Builder, damage: str
) -> None:
    before = read()
    folder = builder.cache / "datasets"
    (arrow,) = folder.rglob("*.arrow")
    (note,) = folder.rglob("*.default_config")
    if damage == "gone":
        arrow.unlink()
    elif damage == "cut short":
        arrow.write_bytes(arrow.read_bytes()[:100])
    else:
        note.write_text("")

    assert read() == before
    hub.close()
    assert read() == before


def test_read__cache_that_cannot_be_written_costs_a_request_only(
    read: Read, hub: HubStandIn, builder: Builder
) -> None:
    folder = builder.cache / "hub" / "datasets--someone--mbpp"
    folder.mkdir(parents=True)
    (folder / "refs").write_text("not a folder")

    assert read().startswith("hub:")


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
    read: Read, hub: HubStandIn, name: str, damaged: Callable[[bytes], bytes]
) -> None:
    repository = hub.root / "datasets" / REPO
    rows = (repository / "train.jsonl").read_bytes()
    (repository / "train.jsonl").unlink()
    (repository / name).write_bytes(damaged(rows))

    assert read().startswith("DataError: ")


@pytest.mark.parametrize(
    "content",
    ['{"text": "a"', '{"text": "a"}\n{"words": [1]}\n'],
    ids=["malformed", "columns differ"],
)
def test_read__data_that_cannot_be_read_are_no_outage(read: Read, hub: HubStandIn, content: str) -> None:
    (hub.root / "datasets" / REPO / "train.jsonl").write_text(content)

    said = read()

    assert said.startswith("DataError: ")
    assert "An error occurred while generating the dataset" not in said


def test_read__silent_hub_is_given_up(read: Read, hub: HubStandIn) -> None:
    hub.close()
    with socket.create_server(("127.0.0.1", hub.server_address[1])):
        said = read(silence=2.0)

    assert said.startswith(f"DataUnavailable: hub {REPO}: ReadTimeout: ")


def test_read__local_folder_of_the_same_name(read: Read, tmp_path: Path) -> None:
    (tmp_path / REPO).mkdir(parents=True)
    write_jsonl(tmp_path / REPO / "train.jsonl", mbpp_rows(rest=3))

    assert "a local file or folder of this name hides it" in read()
