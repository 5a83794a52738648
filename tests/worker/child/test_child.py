"""What a job writes to its log, and what its process says while it loads."""

from __future__ import annotations

import json
import logging
import threading
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import ModelShape, random_state_dict
from tests.worker.child.factories import SEEDED, Recorder, fresh_model, run_in_child
from tests.worker.factories import make_job
from worker.child import reporting, serving
from worker.child import resources as held
from worker.child.reporting import ConnectionReport, LoggedReport
from worker.child.resources import Resources
from worker.child.run import start_run
from worker.job import ModelConfig


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_resources__weights_stay_when_their_file_is_written_over(tmp_path: Path, ending: str) -> None:
    path, other = tmp_path / f"base.{ending}", tmp_path / f"other.{ending}"
    save = torch.save if ending == "pth" else save_file
    shape = ModelShape.random(2, 64, 256)
    save(random_state_dict(shape, 0), path)
    save(random_state_dict(shape, 1), other)
    spec = make_job(model=ModelConfig(checkpoint=path, tokenizer="bytes", dtype="float32"))
    resources = Resources(torch.device("cpu"), tmp_path / "cache", 2**40)
    before = resources.model(spec).emb.weight.clone()
    path.write_bytes(other.read_bytes())
    assert torch.equal(resources.model(spec).emb.weight, before)


def test_log__a_stage_and_the_one_that_continues_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quick = make_job(steps=4, seed=3, future_seed=SEEDED, continues=True)
    med = make_job(steps=6, seed=3, future_seed=SEEDED)

    run_in_child(quick, tmp_path)
    first = caplog.messages
    caplog.clear()
    run_in_child(med, tmp_path)

    assert first[0].startswith(f"job {quick.fingerprint[:16]}: sudoku, Future-Seed {{")
    assert first[0].endswith("seed 3, at most 4 steps")
    assert first[1] == "40 training and 10 validation examples"
    assert [line.partition(":")[0] for line in first[2:4]] == ["step 2", "step 4"]
    assert "token accuracy" in first[2]
    assert first[-1] == "ended: ok"
    assert "continues from the snapshot at step 4" in caplog.messages
    assert [line.partition(":")[0] for line in caplog.messages if line.startswith("step")] == ["step 6"]


def test_log__why_it_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_in_child(make_job().model_copy(update={"examples_digest": "other"}), tmp_path)

    assert ", baseline, seed 0, " in caplog.messages[0]
    said = "ended: build_failed: the data (generated), or the code of task kind 'sudoku', changed since"
    assert caplog.messages[-1].startswith(said)


def test_log__a_smaller_micro_batch_once(caplog: pytest.LogCaptureFixture) -> None:
    begun = start_run(make_job(), fresh_model())
    report = LoggedReport(begun, Recorder())

    report.progressed(1, 0.1, 2.0)
    begun.micro_batch = 2
    report.progressed(2, 0.2, 2.0)
    report.progressed(3, 0.3, 2.0)

    assert caplog.messages == ["step 2: out of memory, micro-batch 2 from now on"]


def test_next_request__gives_memory_back_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Pipe()
    given_back: list[str] = []

    def give_back() -> None:
        given_back.append("all")
        ours.send_bytes(b'"late"')

    monkeypatch.setattr(held, "give_back", give_back)
    resources = Resources(torch.device("cpu"), tmp_path / "cache", 2**40)
    model = resources.model(make_job())
    model.emb.weight.grad = torch.ones_like(model.emb.weight)
    with ours, theirs:
        ours.send_bytes(b'"at once"')
        assert serving.next_request(theirs, resources) == "at once"
        assert not given_back
        monkeypatch.setattr(serving, "IDLE_SECONDS", 0.01)
        assert serving.next_request(theirs, resources) == "late"
        assert given_back == ["all"]
        assert model.emb.weight.grad is None
        ours.close()
        with pytest.raises(EOFError):
            serving.next_request(theirs, resources)


def test_busy__says_so_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "SIGN_SECONDS", 0.01)
    ours, theirs = Pipe()
    with ours, theirs:
        report = ConnectionReport(theirs)
        assert not ours.poll(0.1)
        with report.busy():
            assert json.loads(ours.recv_bytes()) == {"kind": "alive", "content": None}
        while ours.poll():
            ours.recv_bytes()
        assert not ours.poll(0.1)


def test_busy__not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "SIGN_SECONDS", 0.01)
    monkeypatch.setattr(reporting, "LONGEST_LOADING", 0.0)
    ours, theirs = Pipe()
    with ours, theirs, ConnectionReport(theirs).busy():
        assert not ours.poll(0.1)


def test_busy__starts_no_thread() -> None:
    """Without memory to start with, a thread would be waited for without end."""
    ours, theirs = Pipe()
    with ours, theirs:
        report = ConnectionReport(theirs)
        before = threading.active_count()
        with report.busy():
            assert threading.active_count() <= before  # those of earlier tests end
