"""Storing rounds and advancing them, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db import queue
from db.session import Database
from db.tables import Decision, Job, JobState, Round, RoundState
from orchestrator import engine, interventions
from orchestrator.errors import Conflict, NotFound
from orchestrator.findings.records import records
from orchestrator.rounds import stored_round
from orchestrator.search import JobKey
from tests.claims import take_next
from tests.orchestrator.factories import NOW, Rig, resolve, result, round_data
from worker.job import BASELINE, RESULT_VERSION, JobResult, Outcome


def stored(database: Database) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]], RoundState]:
    with database.read() as session:
        row = session.scalars(select(Round).order_by(Round.id.desc())).first()
        assert row is not None
        jobs = [(job.stage, job.variant, job.outcome or job.state) for job in row.jobs]
        decisions = [(d.stage, d.variant, d.decision) for d in row.decisions]
        return jobs, decisions, row.state


def test_advance__order_of_a_round(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    order = rig.run_all({("quick", "l1"): 0.3, ("med", "l1"): 0.1, ("quick", "l2"): 0.2005})
    assert [(key.stage, key.variant) for key in order] == [
        ("quick", BASELINE),
        ("quick", "l1"),
        ("med", BASELINE),
        ("med", "l1"),
        ("quick", "l2"),
    ]
    _, decisions, state = stored(database)
    assert decisions == [
        ("quick", "l1", "promoted"),
        ("med", "l1", "rejected"),
        ("quick", "l2", "pruned"),
        ("quick", "noop", "no_op"),
    ]
    assert state is RoundState.FINISHED


def test_advance__twice_changes_nothing(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    round_id = rig.submit(resolve(tmp_path))
    rig.run_next(result(0.2))
    before = stored(database)
    with database.write() as session:
        again = engine.advance(session, round_id, now=NOW)
    assert stored(database) == before
    assert again.decisions == ()


def test_submit__same_round_is_known(database: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    rig = Rig(database)
    first = rig.submit(resolved)
    with database.write() as session:
        again = engine.submit(session, resolved, "", by="me", now=NOW)
    assert (again.round_id, again.is_new) == (first, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [1]},
        {"variants": {"l1": {"layer_start": 1}}},
        {"prune": {"min_delta": 0.01}},
        {"optimizer": {"lr": 1e-3}},
        {"parallel": True},
        {
            "tasks": {
                "s4": {"kind": "sudoku", "size": 4, "blanks": 5, "train": 40, "val": 10, "batch_size": 4}
            }
        },
    ],
)
def test_submit__name_taken_by_another_round(
    database: Database, tmp_path: Path, changes: dict[str, object]
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    with pytest.raises(Conflict, match="a round named 'r1' exists and differs"):
        rig.submit(resolve(tmp_path, **changes))


def test_advance__equal_jobs_of_another_round_are_not_run_again(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.3, ("med", "l1"): 0.4})
    tasks = {"renamed": round_data()["tasks"]["s4"]}
    variants = {"other": {"layer_start": 0}, "new": {"layer_start": 2, "norm": False}}
    rig.submit(resolve(tmp_path, round="r2", tasks=tasks, variants=variants))
    jobs, decisions, _ = stored(database)
    assert jobs == [
        ("quick", BASELINE, "cached"),
        ("quick", "other", "cached"),
        ("med", BASELINE, "cached"),
        ("med", "other", "cached"),
        ("quick", "new", "queued"),
    ]
    assert decisions == [("quick", "other", "promoted"), ("med", "other", "promoted")]


def test_advance__what_was_stopped_early_answers_for_its_equals_in_the_same_round_alone(
    database: Database, tmp_path: Path
) -> None:
    """In another the run would have been held to other bounds."""
    rig = Rig(database)
    task = round_data()["tasks"]["s4"]
    asked = {"tasks": {"a": task, "b": dict(task)}, "variants": {"l1": {"layer_start": 1}}}
    rig.submit(resolve(tmp_path, **asked))
    rig.run_next(result(0.2))
    rig.run_next(JobResult(outcome=Outcome.STOPPED, reason="at step 2", partial=result(0.1).metrics))
    jobs, decisions, state = stored(database)
    assert jobs == [
        ("quick", BASELINE, "ok"),
        ("quick", "l1", "stopped"),
        ("quick", BASELINE, "cached"),
        ("quick", "l1", "cached"),
    ]
    assert decisions == 2 * [("quick", "l1", "pruned")]
    assert state is RoundState.FINISHED
    rig.submit(resolve(tmp_path, round="r2", **asked))
    assert stored(database)[0] == [("quick", BASELINE, "cached"), ("quick", "l1", "queued")]


def test_advance__diverged_and_out_of_memory(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(result(0.2))
    rig.run_next(JobResult(outcome=Outcome.DIVERGED, reason="the loss is nan"))
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    _, decisions, state = stored(database)
    assert decisions == [("quick", "l1", "pruned"), ("quick", "l2", "undecided"), ("quick", "noop", "no_op")]
    assert state is RoundState.FINISHED
    rig.submit(resolve(tmp_path, round="r2"))  # a divergence is known as well, a lack of memory is not
    jobs, _, _ = stored(database)
    assert jobs == [("quick", BASELINE, "cached"), ("quick", "l1", "cached"), ("quick", "l2", "queued")]


def test_advance__closed_trajectories(database: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    rig = Rig(database)
    round_id = rig.submit(resolved)

    def finish(key: JobKey, accuracy: float) -> tuple[str, ...]:
        with database.write() as session:
            job = session.scalars(select(Job).where(Job.variant == key.variant, Job.stage == key.stage)).one()
            job.state, job.outcome = JobState.DONE, "ok"
            job.result = result(accuracy).model_dump(mode="json")
            return engine.advance(session, round_id, now=NOW).closed_trajectories

    def trajectory(variant: str) -> str:
        return resolved.job(JobKey("s4", "quick", variant, 0)).trajectory

    assert finish(JobKey("s4", "quick", BASELINE, 0), 0.2) == ()
    assert finish(JobKey("s4", "quick", "l1", 0), 0.3) == ()
    assert finish(JobKey("s4", "med", BASELINE, 0), 0.2) == ()
    assert finish(JobKey("s4", "med", "l1", 0), 0.3) == (trajectory("l1"),)
    assert set(finish(JobKey("s4", "quick", "l2", 0), 0.1)) == {trajectory("l2"), trajectory(BASELINE)}


def trained_and_closed(database: Database, end: Callable[[Job], JobResult]) -> tuple[set[str], set[str]]:
    """The trajectories of all jobs, each ended as given, and those that were closed; none before its last job."""
    trained: set[str] = set()
    closed: set[str] = set()
    while True:
        with database.write() as session:
            job = session.scalars(select(Job).where(Job.state == JobState.QUEUED).order_by(Job.id)).first()
            if job is None:
                return trained, closed
            assert job.trajectory is not None
            assert job.trajectory not in closed
            trained.add(job.trajectory)
            ended = end(job)
            job.state, job.outcome = JobState.DONE, ended.outcome
            job.result = ended.model_dump(mode="json")
            session.flush()
            closed |= set(engine.advance_job(session, job.id, now=NOW).closed_trajectories)


@pytest.mark.parametrize("grids", [(2, 2), (2, 4), (2, 2, 4), (2, 4, 2), (4, 2, 2)])
@pytest.mark.parametrize("last", [0.3, 0.1])
def test_advance__closes_every_trajectory_once_nothing_goes_on_with_it(
    grids: tuple[int, ...], last: float, database: Database, tmp_path: Path
) -> None:
    """Whether the last stage promotes or not, and whichever stages are evaluated at the same steps."""
    stages = [{"name": f"s{n}", "steps": 4 * 2**n, "eval_every": every} for n, every in enumerate(grids)]
    Rig(database).submit(resolve(tmp_path, stages=stages, variants={"l1": {"layer_start": 1}}))

    def end(job: Job) -> JobResult:
        of_variant = last if job.stage == stages[-1]["name"] else 0.3
        return result(0.2 if job.variant == BASELINE else of_variant)

    trained, closed = trained_and_closed(database, end)
    assert len(trained) == 2 * len(set(grids))
    assert closed == trained


TWO_STAGES = [{"name": "s0", "steps": 4, "eval_every": 2}, {"name": "s1", "steps": 8, "eval_every": 2}]
RANKED = {"rule": "halving", "eta": 3, "min_delta": -1}


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline_seeds": 3},
        {"stages": [*TWO_STAGES, {"name": "confirm", "steps": 8, "eval_every": 2}], "seeds": [0, 1]},
        {"prune": RANKED, "seeds": [0, 1, 2]},
        {"prune": {"rule": "evidence", "max_seeds": 3}, "seeds": [0, 1, 2]},
        {"optimizer": {"schedule": "cosine"}, "seeds": [0, 1]},
    ],
    ids=["baseline_seeds", "confirm", "ranked", "evidence", "cosine"],
)
@pytest.mark.parametrize("diverges", [None, "s0", "s1"])
def test_advance__closes_whatever_a_round_has_trained_by_its_end(
    changes: dict[str, Any], diverges: str | None, database: Database, tmp_path: Path
) -> None:
    """A run of l1's last seed may diverge: it is decided by the others' seeds, or by none."""
    asked = {"stages": TWO_STAGES, "variants": {"l1": {"layer_start": 1}, "l2": {"layer_start": 2}}} | changes
    round_id = Rig(database).submit(resolve(tmp_path, **asked))
    last = asked.get("seeds", [0])[-1]

    def end(job: Job) -> JobResult:
        if (job.variant, job.stage, job.seed) == ("l1", diverges, last):
            return JobResult(outcome=Outcome.DIVERGED, reason="NaN")
        return result(0.2 if job.variant == BASELINE else 0.3)

    trained, closed = trained_and_closed(database, end)
    with database.read() as session:
        assert session.get_one(Round, round_id).state is RoundState.FINISHED
    assert closed == trained


def test_cancel__keeps_decisions_and_starts_nothing(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(result(0.2))
    rig.run_next(result(0.3))
    with database.write() as session:
        assert interventions.cancel(session, "r1", by="me", now=NOW).changed
        assert not interventions.cancel(session, "r1", by="me", now=NOW).changed
    assert rig.run_next(result(0.2)) is None
    jobs, decisions, state = stored(database)
    assert jobs[-1] == ("med", BASELINE, "cancelled")
    assert decisions == [("quick", "l1", "promoted")]
    assert state is RoundState.CANCELLED


def test_find__unknown(database: Database) -> None:
    with database.read() as session, pytest.raises(NotFound, match="there is no round named 'zzz'"):
        stored_round.find(session, "zzz")


def test_decisions__unique(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1], parallel=True))
    rig.run_all({("quick", "l1"): 0.3})
    with database.read() as session:
        keys = [(d.task, d.stage, d.variant, d.seed) for d in session.scalars(select(Decision))]
    assert len(keys) == len(set(keys)) == 8


def test_advance__tasks_in_the_order_of_the_file(database: Database, tmp_path: Path) -> None:
    options = round_data()["tasks"]["s4"]
    tasks = {"zebra": options, "a": options | {"blanks": 5}, "mm": options | {"blanks": 3}}
    rig = Rig(database)
    rig.submit(resolve(tmp_path, tasks=tasks, variants={"l1": {"layer_start": 1}}))
    order = rig.run_all({})
    assert list(dict.fromkeys(key.task for key in order)) == ["zebra", "a", "mm"]


def test_submit__another_no_op_is_another_round(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    variants = round_data()["variants"] | {"noop2": {"layer_start": 8}}
    with pytest.raises(Conflict):
        rig.submit(resolve(tmp_path, variants=variants))


def unfinished(database: Database) -> list[str]:
    with database.read() as session:
        waiting = session.scalars(select(Job).where(Job.state != JobState.DONE).order_by(Job.id))
        return [f"{job.task} {job.stage} {job.variant} {job.seed}" for job in waiting]


@pytest.mark.parametrize("parallel", [False, True])
def test_advance_job__comes_to_what_advance_comes_to(
    database: Database, tmp_path: Path, parallel: bool
) -> None:
    """After each job, nothing is left that looking at the whole round would add."""
    rig = Rig(database)
    round_id = rig.submit(resolve(tmp_path, seeds=[0, 1], parallel=parallel))
    for accuracy in (0.2, 0.3, 0.25, 0.4, 0.1, 0.2, 0.3, 0.3, 0.35, 0.2, 0.3, 0.4):
        if rig.run_next(result(accuracy)) is None:
            break
        with database.write() as session:
            assert engine.advance(session, round_id, now=NOW) == engine.NOTHING
    with database.read() as session:
        assert session.get_one(Round, round_id).state is RoundState.FINISHED


def another_can_be_had(rig: Rig) -> bool:
    """Whether a second worker gets a job while a first has one; neither keeps it."""
    with rig.database.write() as session:
        leases = [
            take_next(session, worker_id=rig.worker_id, now=NOW, lease_for=timedelta(minutes=1))
            for _ in range(2)
        ]
        assert leases[0] is not None
        assert (queue.next_start(session) is None) == (leases[1] is None)
        session.rollback()
    return leases[1] is not None


def test_retry__side_by_side_where_that_is_asked_for(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, parallel=True, seeds=[0, 1, 2]))
    for _ in range(3):
        rig.run_next(JobResult(outcome=Outcome.CRASHED, reason="signal 9"))
    with database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
    assert another_can_be_had(rig)


TASK = round_data()["tasks"]["s4"]


@pytest.mark.parametrize(
    ("asked", "second"),
    [
        ({"seeds": [0, 1]}, ("s4", 1)),
        ({"tasks": {"s4": TASK, "s5": TASK | {"blanks": 5}}}, ("s5", 0)),
    ],
    ids=["seeds", "tasks"],
)
def test_advance_job__after_a_retry_still_one_job_at_a_time(
    database: Database, tmp_path: Path, asked: dict[str, Any], second: tuple[str, int]
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, **asked))
    in_second = "{} quick baseline {}".format(*second)
    rig.run_next(result(0.2))
    rig.run_next(JobResult(outcome=Outcome.CRASHED, reason="signal 9"))  # l1, in the first
    rig.run_next(result(0.1))
    assert unfinished(database) == [in_second]
    with database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
    assert unfinished(database) == ["s4 quick l1 0", in_second]
    assert not another_can_be_had(rig)
    rig.run_next(result(0.3))  # promoted: its chain goes on, and the other one waits
    assert unfinished(database) == [in_second, "s4 med baseline 0"]
    rig.run_next(result(0.2))
    assert unfinished(database) == ["s4 med baseline 0"]
    while rig.run_next(result(0.2)):
        assert len(unfinished(database)) <= 1


@pytest.mark.parametrize("stages", [["quick"], ["quick", "med"]])
def test_retry__ranks_anew(database: Database, tmp_path: Path, stages: list[str]) -> None:
    """What ran after a promotion that is taken back stays on record, without a decision."""
    rig = Rig(database)
    rule = {"rule": "top_k", "keep": 1, "min_delta": -1}
    chosen = [stage for stage in round_data()["stages"] if stage["name"] in stages]
    rig.submit(resolve(tmp_path, prune=rule, stages=chosen))
    rig.run_next(result(0.2))
    rig.run_next(JobResult(outcome=Outcome.CRASHED, reason="signal 9"))  # l1
    rig.run_all({(stage, "l2"): 0.3 for stage in stages})
    with database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
    rig.run_all({("quick", "l1"): 0.5})
    jobs, decisions, state = stored(database)
    assert state is RoundState.FINISHED
    assert [decision for decision in decisions if decision[0] == "quick"] == [
        ("quick", "noop", "no_op"),
        ("quick", "l1", "promoted"),
        ("quick", "l2", "pruned"),
    ]
    assert [decision for decision in decisions if decision[0] == "med"] == (
        [("med", "l1", "promoted")] if "med" in stages else []
    )
    told = [(record["stage"], record["config"], record["status"]) for record in records(database, "r1")]
    assert {job for job in jobs if job[2] == "ok"} == {one for one in told if one[0] != "decision"}


def test_retry__runs_nothing_that_is_no_longer_wanted(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, prune={"rule": "top_k", "keep": 1, "min_delta": -1}))
    failed = JobResult(outcome=Outcome.OOM, reason="no memory")
    for outcome in (result(0.2), failed, result(0.3), result(0.2), failed):  # quick, then med of l2
        rig.run_next(outcome)
    with database.write() as session:
        assert interventions.retry(session, "r1", by="me", now=NOW).changed
    assert [key.variant for key in rig.run_all({("quick", "l1"): 0.5})] == ["l1", "l1"]
    with database.write() as session:
        assert not interventions.retry(session, "r1", by="me", now=NOW).changed
    jobs, _, state = stored(database)
    assert state is RoundState.FINISHED
    assert ("med", "l2", "oom") in jobs
    assert {outcome for *_, outcome in jobs} == {"ok", "oom"}


def test_retry__stage_by_stage_where_variants_are_ranked(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, prune={"rule": "top_k", "keep": 2, "min_delta": -1}))
    failed = JobResult(outcome=Outcome.OOM, reason="no memory")
    for outcome in (result(0.2), failed, result(0.3), result(0.2), failed):
        rig.run_next(outcome)
    for expected in (["quick l1", "med l1"], ["med l2"]):
        with database.write() as session:
            assert interventions.retry(session, "r1", by="me", now=NOW).changed
        assert [f"{key.stage} {key.variant}" for key in rig.run_all({})] == expected
    assert {outcome for *_, outcome in stored(database)[0]} == {"ok"}


def test_retry__confirms_anew(database: Database, tmp_path: Path) -> None:
    """How many were tried together is another number then."""
    confirming = {"name": "confirm", "steps": 8, "eval_every": 2, "confirm": {"seeds": 2, "level": 0.03}}
    quick = round_data()["stages"][0]
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, stages=[quick, confirming]))
    for accuracy in (0.2, 0.3, 0.3):
        rig.run_next(result(accuracy))
    rig.run_next(result(0.2))  # the baseline on the first fresh seed
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="no memory"))  # l1
    rig.run_all({("confirm", "l2"): 0.3})
    before = {record["config"]: record for record in records(database, "r1") if record.get("q_level")}
    assert (before["l1"]["status"], before["l2"]["n_tried"]) == ("undecided", 1)
    with database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
    rig.run_all({("confirm", "l2"): 0.3})
    after = {record["config"]: record for record in records(database, "r1") if record.get("q_level")}
    assert {record["n_tried"] for record in after.values()} == {2}
    for record in after.values():
        assert (record["status"] == "confirmed") == (record["q_value"] <= 0.03)
        assert f"{record['q_value']:.3f}" in record["reason"]


def test_submit__the_same_round_by_another_version(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database)
    chosen = {"round": "r2", "variants": {"from": "r1"}}
    round_id = rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.3, ("med", "l1"): 0.3})
    second_id = rig.submit(resolve(tmp_path, **chosen))
    rig.run_all({})
    monkeypatch.setattr("worker.job.spec.RESULT_VERSION", 1 + RESULT_VERSION)
    assert rig.submit(resolve(tmp_path)) == round_id
    assert rig.submit(resolve(tmp_path, **chosen)) == second_id
    with pytest.raises(Conflict):
        rig.submit(resolve(tmp_path, seeds=[1]))


def test_advance__leaves_rounds_that_are_not_active_alone(database: Database, tmp_path: Path) -> None:
    """One that was cancelled, and one that waits: no job, decision or state comes of it."""
    rig = Rig(database)
    cancelled = rig.submit(resolve(tmp_path))
    waiting = rig.submit(resolve(tmp_path, round="r2", seeds=[1], after={"round": "r1"}))
    rig.run_next(result(0.2))

    def all_rounds() -> list[object]:
        with database.read() as session:
            rows = session.scalars(select(Round).order_by(Round.id)).all()
            return [(row.state, row.n_events, len(row.jobs), len(row.decisions)) for row in rows]

    before = all_rounds()
    with database.write() as session:
        assert engine.advance(session, waiting, now=NOW) == engine.NOTHING
    assert all_rounds() == before
    with database.write() as session:
        interventions.cancel(session, "r1", by="me", now=NOW)
    before = all_rounds()
    assert before[0][0] is RoundState.CANCELLED
    with database.write() as session:
        for round_id in (cancelled, waiting):
            assert engine.advance(session, round_id, now=NOW) == engine.NOTHING
    assert all_rounds() == before
