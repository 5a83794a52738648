"""What pages ask of the database, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.session import Database
from db.tables import Job, JobState, Round, RoundState
from orchestrator import interventions
from orchestrator.findings.records import records
from orchestrator.rounds import stored_round
from orchestrator.terminal import status
from orchestrator.views import lookup, progress
from orchestrator.views.lookup import Slice
from orchestrator.views.progress import Arms
from orchestrator.views.shapes import WorkerState
from tests.orchestrator.factories import NOW, Rig, resolve, result
from worker.job import JobResult, Outcome


@pytest.fixture
def rig(database: Database, tmp_path: Path) -> Rig:
    """Round r1, submitted."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    return rig


def test_newer__the_part_before(database: Database) -> None:
    with database.write() as session:
        states = [RoundState.ACTIVE, RoundState.FINISHED]
        session.add_all(
            Round(
                name=f"r{number}",
                digest="x",
                source="",
                spec={},
                facts={},
                state=states[number % 2],
                created_at=NOW,
            )
            for number in range(1, 10)
        )

    with database.read() as session:
        # parts of two, by ids: 9 8, 7 6, 5 4, 3 2, 1
        assert lookup.newer(session, Slice(after=4, limit=2)) == 6
        assert lookup.newer(session, Slice(after=6, limit=2)) == 8
        assert lookup.newer(session, Slice(after=8, limit=2)) is None
        # of the finished ones: 9 7, 5 3, 1
        assert lookup.newer(session, Slice(after=3, limit=2), RoundState.FINISHED) == 7
        assert lookup.newer(session, Slice(after=7, limit=2), RoundState.FINISHED) is None


def test_arms__by_stage(rig: Rig, tmp_path: Path) -> None:
    for accuracy in (0.2, 0.5, 0.2, 0.5):  # l1 is promoted at both stages
        rig.run_next(result(accuracy))
    rig.submit(resolve(tmp_path, round="other", seeds=[8, 9]))

    with rig.database.read() as session:
        assert progress.arms(session, ["r1", "other", "none"]) == {
            "r1": Arms(3, {"quick": {"promoted": 1}, "med": {"promoted": 1}}),
            "other": Arms(6, {}),
        }


def test_arms__what_was_not_measured_is_not_judged(rig: Rig) -> None:
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too big"))

    with rig.database.read() as session:
        found = progress.arms(session, ["r1"])["r1"]
        assert (found.judged, found.undecided, found.total, found.is_unmeasured) == (1, 2, 3, True)
        assert progress.outcomes(session, stored_round.find(session, "r1").id) == {"oom": 1}


def test_arms__of_variants_that_are_yet_to_come(rig: Rig, tmp_path: Path) -> None:
    rig.submit(resolve(tmp_path, round="next", variants={"from": "r1"}))

    with rig.database.read() as session:
        assert progress.arms(session, ["next"])["next"] == Arms(None, {})
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.5})
    with rig.database.read() as session:
        assert progress.arms(session, ["next"])["next"].total == 1


def test_workers__of_these_ids(rig: Rig) -> None:
    Rig(rig.database)

    with rig.database.read() as session:
        assert len(lookup.workers(session, NOW)) == 2
        assert [one.id for one in lookup.workers(session, NOW, ids=[rig.worker_id])] == [rig.worker_id]


def test_baseline__of_the_same_task_stage_and_seed(rig: Rig, tmp_path: Path) -> None:
    rig.submit(resolve(tmp_path, round="other", seeds=[5]))
    rig.run_all({("quick", "l1"): 0.5})

    with rig.database.read() as session:
        for name in ("r1", "other"):
            jobs = lookup.jobs(session, name, Slice()).items
            for job in jobs:
                found = progress.baseline(session, job)
                assert found is not None
                assert (found.round, found.config) == (name, "baseline")
                assert (found.task, found.stage, found.seed) == (job.task, job.stage, job.seed)


def test_unmeasured__what_a_retry_would_run(rig: Rig) -> None:
    def count() -> int:
        with rig.database.read() as session:
            return progress.unmeasured(session, stored_round.find(session, "r1").id)

    assert count() == 0
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too big"))
    assert count() == 1
    with rig.database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
    rig.run_all({})
    assert count() == 0


def test_unmeasured__a_divergence_is_a_measurement(rig: Rig) -> None:
    rig.run_next(result(0.2))
    rig.run_next(JobResult(outcome=Outcome.DIVERGED, reason="NaN"))

    with rig.database.read() as session:
        assert progress.unmeasured(session, stored_round.find(session, "r1").id) == 0


def test_decisions__of_one_task(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    task = {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}
    rig.submit(resolve(tmp_path, tasks={"a": task, "b": task | {"blanks": 5}}))
    rig.run_all({})

    with database.read() as session:
        of_all = progress.decisions(session, "r1", Slice()).items
        of_b = progress.decisions(session, "r1", Slice(), task="b").items
        assert session.query(Job).count() == 6

    assert [one.task for one in of_all] == ["a"] * 3 + ["b"] * 3
    assert of_b == of_all[3:]


def test_decisions__carry_the_caveats_of_their_records(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, seeds=[0, 1, 2]))
    crashed, diverged = (JobResult(outcome=one, reason="so") for one in (Outcome.CRASHED, Outcome.DIVERGED))
    for outcome in (result(0.2), crashed, result(0.3), result(0.2), result(0.3)):  # l1, then l2 of seed 0
        rig.run_next(outcome)
    for outcome in (result(0.2), result(0.3), result(0.2), result(0.3), diverged):  # of seed 1
        rig.run_next(outcome)
    rig.run_all({})

    with database.read() as session:
        found = [
            one
            for after in range(0, 20, 2)
            for one in progress.decisions(session, "r1", Slice(after=after, limit=2)).items
        ]
    recorded = {
        (record["config"], record["decided_stage"], record["seed"]): record["caveats"]
        for record in records(database, "r1")
        if record["stage"] == "decision"
    }
    assert {(one.config, one.stage, one.seed): list(one.caveats or ()) for one in found} == recorded
    assert any(recorded.values())
    doubtful = next(one for one in found if one.caveats)
    assert f"[{', '.join(doubtful.caveats or ())}]" in status._decision_text(doubtful)


def test_jobs__in_one_state(rig: Rig) -> None:
    rig.run_next(result(0.2))
    with rig.database.read() as session:
        of_all = lookup.jobs(session, "r1", Slice()).items
        found = {state: lookup.jobs(session, "r1", Slice(), state).items for state in JobState}
    assert [job.state for job in of_all] == [JobState.DONE, JobState.QUEUED]
    assert found == {JobState.DONE: of_all[:1], JobState.QUEUED: of_all[1:], JobState.RUNNING: []}


def test_status__counts_each_worker_once(rig: Rig) -> None:
    Rig(rig.database)
    with rig.database.read() as session:
        assert lookup.status(session, NOW).workers == {
            WorkerState.ALIVE: 2,
            WorkerState.PAUSED: 0,
            WorkerState.SILENT: 0,
            WorkerState.STOPPED: 0,
        }
