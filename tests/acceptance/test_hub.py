"""Rounds on hub data and a hub checkpoint, with a local stand-in for the hub: real requests, real processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from model import random_state_dict
from model.shapes import ModelShape
from tests.acceptance.conftest import FSQ, Fsq, records_of, write_round
from tests.hub_stand_in import HubStandIn, reserved_port, serving

SMALL_MODEL = {"random": {"layers": 2, "dim": 64, "vocab": 256}, "tokenizer": "bytes"}
REPO, MODEL = "someone/mbpp", "someone/rwkv7"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    """A hub with a small data set of MBPP's layout and a small checkpoint."""
    data = tmp_path / "repositories" / "datasets" / REPO
    data.mkdir(parents=True)
    for name, numbers in (("train", range(601, 625)), ("test", range(11, 20))):
        rows = [
            {
                "text": f"Add {number} to x.",
                "code": f"x + {number}",
                "task_id": number,
                "test_list": [f"f({number})"],
            }
            for number in numbers
        ]
        (data / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model = tmp_path / "repositories" / "models" / MODEL
    model.mkdir(parents=True)
    save_file(random_state_dict(ModelShape.random(2, 64, 256, 64), 0), model / "tiny.safetensors")
    with reserved_port() as port, serving(tmp_path / "repositories", port) as server:
        yield server


@pytest.fixture
def environment(environment: dict[str, str], hub: HubStandIn, tmp_path: Path) -> dict[str, str]:
    return environment | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def hub_task(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"repo": REPO, "train_split": "train", "val_split": "test"}
    sizes = {"train": 12, "val": 6, "batch_size": 4, "max_prompt_tokens": 200}
    return {"kind": "mbpp", "data": {"hub": data | changes}} | sizes


def hub_round(folder: Path, **changes: Any) -> Path:
    checkpoint = {"repo": MODEL, "file": "tiny.safetensors"}
    data: dict[str, Any] = {
        "tasks": {"code": hub_task()},
        "model": {"hub": checkpoint, "tokenizer": "bytes", "dtype": "float32"},
        "variants": {"l1": {"layer_start": 1}},
    }
    return write_round(folder, **data | changes)


def jobs_of(fsq: Fsq, **more: Any) -> list[dict[str, Any]]:
    return [record for record in records_of(fsq, **more) if record["stage"] != "decision"]


def test_prefetch__then_the_round_needs_no_network(fsq: Fsq, hub: HubStandIn, tmp_path: Path) -> None:
    path = hub_round(tmp_path)

    fetched = fsq("prefetch", path)

    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout.splitlines() == [
        f"model: 2 layers x 64, {fetched.stdout.split('x 64, ')[1].split()[0]} parameters",
        "code: 12 train and 6 val examples",
        f"small: everything is on this machine; `fsq run {path}` needs no network",
    ]
    assert fetched.stderr == ""
    shutil.copytree(tmp_path / "home", tmp_path / "second home")
    hub.requests.clear()

    for home in ("home", "second home"):
        env = {"FSQ_HOME": str(tmp_path / home)}
        ran = fsq("run", path, env=env)

        assert ran.returncode == 0, ran.stderr
        assert {job["status"] for job in jobs_of(fsq, env=env)} == {"ok"}
        assert hub.requests == []
        hub.close()  # for the second run it is out of reach


def test_submit__fixes_the_commit(fsq: Fsq, hub: HubStandIn, tmp_path: Path) -> None:
    """What a branch means later does not matter to a round that was submitted."""
    repository = hub.root / "datasets" / REPO
    commit = hub.commit(repository)
    assert fsq("submit", hub_round(tmp_path)).returncode == 0
    assert f"hub:{REPO}@{commit}:" in fsq("plan", hub_round(tmp_path)).stdout
    refs = tmp_path / "hf" / "hub" / "datasets--someone--mbpp" / "refs" / "main"
    assert refs.read_text() == commit
    refs.write_text("f" * 40)
    shutil.rmtree(tmp_path / "home" / "cache")

    assert fsq("work", "--drain").returncode == 0

    assert {job["error"] for job in jobs_of(fsq)} == {None}


def test_submit__overloaded_hub_is_asked_again(fsq: Fsq, hub: HubStandIn, tmp_path: Path) -> None:
    hub.overloaded = {f"api/datasets/{REPO}/revision/main": 2}

    done = fsq("submit", hub_round(tmp_path))

    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[-1].split("; ")[-1] for line in done.stderr.splitlines() if "503" in line] == [
        "trying again in 1 s",
        "trying again in 2 s",
    ]


def test_submit__hub_out_of_reach_is_no_verdict_on_the_round(
    fsq: Fsq, hub: HubStandIn, tmp_path: Path
) -> None:
    hub.close()

    done = fsq("submit", hub_round(tmp_path, model=SMALL_MODEL))

    assert done.returncode == 5
    *again, last = done.stderr.splitlines()
    assert [line.split("; ")[-1] for line in again] == [
        f"trying again in {seconds} s" for seconds in (1, 2, 4)
    ]
    assert re.fullmatch(r"fsq: small\.yaml: line \d+, tasks\.code: hub someone/mbpp: ConnectError: .*", last)


def test_submit__wrong_requests_are_bad_input(fsq: Fsq, hub: HubStandIn, tmp_path: Path) -> None:
    wrong = {
        "repo": ({"repo": "someone/nothing"}, "someone/nothing: RepositoryNotFoundError"),
        "revision": ({"revision": "v9"}, "someone/mbpp: RevisionNotFoundError"),
        "split": ({"val_split": "validation"}, 'Unknown split "validation"'),
        "config": ({"config": "full"}, "BuilderConfig 'full' not found"),
    }
    tasks = {name: hub_task(**changes) for name, (changes, _) in wrong.items()}

    done = fsq("submit", hub_round(tmp_path, tasks=tasks))

    assert done.returncode == 2, done.stderr
    for name, (_, message) in wrong.items():
        (said,) = [line for line in done.stderr.splitlines() if f"tasks.{name}: " in line]
        assert message in said
    assert "trying again" not in done.stderr


def test_submit__script_of_a_data_set_is_never_run(fsq: Fsq, hub: HubStandIn, tmp_path: Path) -> None:
    repository, proof = hub.root / "datasets" / REPO, tmp_path / "it ran"
    for path in repository.iterdir():
        path.unlink()
    (repository / "mbpp.py").write_text(f"open({str(proof)!r}, 'w')\n")

    done = fsq("submit", hub_round(tmp_path))

    assert done.returncode == 2, done.stderr
    assert not proof.exists()


def test_work__hub_that_comes_back(
    fsq: Fsq, hub: HubStandIn, tmp_path: Path, environment: dict[str, str]
) -> None:
    """A worker that lacks data and checkpoint fetches them; what fails on the way is no verdict."""
    assert fsq("submit", hub_round(tmp_path)).returncode == 0
    shutil.rmtree(tmp_path / "home" / "cache")
    shutil.rmtree(tmp_path / "hf")
    hub.close()
    with subprocess.Popen(
        [FSQ, "work", "--drain", "--log-format", "json"], env=environment, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stderr is not None
        lines = (json.loads(line) for line in worker.stderr)
        failed = next(line for line in lines if line["event"] == "job ended")
        with serving(hub.root, hub.server_address[1]):
            rest = worker.stderr.read()
            assert worker.wait() == 0, rest

    assert (failed["outcome"], failed["will_retry"]) == ("infra_failed", True)
    assert (failed["round"], failed["job"]) == ("small", "code quick baseline seed 0")
    assert {job["status"] for job in jobs_of(fsq)} == {"ok"}


def test_checkpoint__that_arrives_damaged_is_fetched_again(fsq: Fsq, hub: HubStandIn, tmp_path: Path) -> None:
    """By the hash that the hub tells of large files."""
    path = hub_round(tmp_path)
    hub.damaged = 1
    submitted = fsq("submit", path)
    assert submitted.returncode == 0, submitted.stderr
    assert hub.damaged == 0

    shutil.rmtree(tmp_path / "hf")
    hub.damaged = 2
    refused = fsq("plan", path)
    assert refused.returncode == 5, refused.stderr
    assert "tiny.safetensors of someone/rwkv7 arrives damaged from the hub: its SHA-256 is " in refused.stderr
    assert fsq("plan", path).returncode == 0


def test_checkpoint__that_is_damaged_later_is_fetched_again(
    fsq: Fsq, hub: HubStandIn, tmp_path: Path
) -> None:
    path = hub_round(tmp_path)
    assert fsq("submit", path).returncode == 0
    (copy,) = (tmp_path / "hf" / "hub" / "models--someone--rwkv7" / "blobs").iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole[:1000])

    assert fsq("work", "--drain").returncode == 0

    assert {job["status"] for job in jobs_of(fsq)} == {"ok"}
    assert copy.read_bytes() == whole
    copy.write_bytes(whole[:-1])
    assert fsq("plan", path).returncode == 0
    assert copy.read_bytes() == whole
    copy.write_bytes(whole[:-1])
    hub.close()
    refused = fsq("plan", path)
    assert refused.returncode == 5, refused.stderr
    assert "cannot be fetched from the hub, and the copy here is damaged: " in refused.stderr
