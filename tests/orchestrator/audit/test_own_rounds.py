"""A round of fsq that is called as the predecessor called its own, end to end: nothing false is found in it."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import pytest

from db.session import Database
from db.tables import Round
from orchestrator.audit.finding import Check
from orchestrator.audit.judging import Audit, audit
from orchestrator.client import DatabaseClient
from orchestrator.errors import BrokenRound
from orchestrator.findings import exports
from orchestrator.history.entries import History, Run
from orchestrator.history.importing import import_files
from orchestrator.history.sources import of_files, of_imported, of_rounds
from tests.orchestrator import factories
from tests.orchestrator.factories import NOW, Rig, resolve, round_data
from worker.job import JobResult

STARTS = {"scalar_l12_sched_cos": 12, "head_l8": 8, "no_fs": 3}
QUICK = {"scalar_l12_sched_cos": 0.225, "head_l8": 0.18, "no_fs": 0.203, "aa": 0.21}  # the baseline has 0.2
TASK = "sudoku9_seed5"


@pytest.fixture
def rig(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Round 29 on a model of 14 layers: at med, where all accuracies are equal, every run has a loss of its own."""
    losses, plain = count(1), factories.result

    def with_its_own_loss(accuracy: float) -> JobResult:
        done = plain(accuracy)
        assert done.metrics is not None
        changed = done.metrics.model_copy(update={"best_val_loss": 1 + next(losses) / 7})
        return done.model_copy(update={"metrics": changed})

    monkeypatch.setattr(factories, "result", with_its_own_loss)
    rig = Rig(database)
    resolved = resolve(
        tmp_path,
        round="29",
        model={"random": {"layers": 14, "dim": 64, "vocab": 256}, "tokenizer": "bytes"},
        tasks={TASK: round_data()["tasks"]["s4"]},
        variants={name: {"layer_start": start} for name, start in STARTS.items()},
        prune={"rule": "threshold", "min_delta": 0.01},
        control="aa",
        seeds=[0, 1],
    )
    rig.submit(resolved)
    rig.run_all({("quick", name): accuracy for name, accuracy in QUICK.items()})
    return rig


@pytest.fixture
def client(database: Database) -> DatabaseClient:
    return DatabaseClient(database, Mock(), "me")


def judged(history: History) -> Audit:
    assert {run.config for run in history.runs if run.stage == "med"} == {
        "baseline",
        "scalar_l12_sched_cos",
        "aa",
    }
    assert {run.config for run in history.runs if run.is_control} == {"aa"}
    assert {run.config for run in history.runs if run.is_baseline} == {"baseline"}
    return audit(history)


def test_own_rounds__are_judged_by_what_they_say_themselves(rig: Rig, client: DatabaseClient) -> None:
    found = judged(History.of(of_rounds(client))).findings
    assert [one.text for one in found[Check.LABELS] + found[Check.CONTRADICTED_RULE]] == []
    assert [one.text for one in found[Check.NO_OPS] if "tie" not in one.text] == []
    assert [one.text.partition(":")[0] for one in found[Check.AT_CHANCE]] == [
        "16 of 16 (100.0 %) records carry the caveat at_chance"
    ]


def test_own_rounds__exported_and_imported_alike(
    rig: Rig, client: DatabaseClient, database: Database, tmp_path: Path
) -> None:
    path, _ = exports.write_files(partial(exports.lines, database), "29", tmp_path / "out")
    import_files(database, [path], pytest.fail, now=NOW, strict=True)
    texts = [
        [one.text for findings in judged(History.of(entries)).findings.values() for one in findings]
        for entries in (of_rounds(client), of_files([path], pytest.fail), of_imported(database, ["29"]))
    ]
    assert texts[0] == texts[1] == texts[2]


def test_of_rounds__leaves_out_a_broken_one_where_all_are_asked_for(
    rig: Rig, client: DatabaseClient, database: Database, tmp_path: Path
) -> None:
    broken = rig.submit(resolve(tmp_path, round="broken"))
    with database.write() as session:
        row = session.get_one(Round, broken)
        row.spec = row.spec | {"prune": {"rule": "gone"}}
    warned: list[str] = []
    runs = [entry for entry in of_rounds(client, warn=warned.append) if isinstance(entry, Run)]
    assert {run.round for run in runs} == {"29"}
    (warning,) = warned
    assert warning.startswith("left out: round broken cannot be read here: prune: ")
    with pytest.raises(BrokenRound, match="round broken"):
        list(of_rounds(client, ["29", "broken"], warned.append))
