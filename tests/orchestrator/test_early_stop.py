"""Rounds that stop runs early: which runs get bounds, what is decided of a stopped one, and what never takes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db import queue
from db.session import Database
from db.tables import Decision, Evaluation, Job
from orchestrator import engine, interventions
from orchestrator.api.metrics import FromDatabase
from orchestrator.api.watch import Watch
from orchestrator.errors import BadRound
from orchestrator.findings.exports import lines
from orchestrator.findings.records import Record, has_failures, records
from orchestrator.points import ROUNDING
from orchestrator.reports import effects
from orchestrator.search import JobKey
from orchestrator.statistics.early_stop import remaining
from orchestrator.web import shown_decisions
from tests.claims import take_next
from tests.orchestrator.factories import NOW, USAGE, Rig, resolve, result
from tests.orchestrator.reports import samples
from worker.job import BASELINE, RESULT_VERSION, EarlyStop, JobResult, Outcome

MANY = {"grid": {"layer_start": [1, 2], "alpha_init": [-float(n) for n in range(1, 13)]}}  # 24 variants
NEW = {"new": {"layer_start": 1, "norm": False}, "other": {"layer_start": 2, "norm": False}}
ON = {"error_rate": 0.05, "min_runs": 20}
REASON = "at step 2, 25.00 pp below the baseline there"


class CurveRig(Rig):
    """Ends jobs with the accuracies that they are evaluated to have."""

    result_version: int | None = RESULT_VERSION

    def run(self, curve: Mapping[int, float]) -> JobKey | None:
        """Ends the next job, which was evaluated at the even steps of its budget: from `curve`, or else at 0.5."""
        with self.database.write() as session:
            lease = take_next(session, worker_id=self.worker_id, now=NOW, lease_for=timedelta(minutes=1))
            if lease is None:
                return None
            job = session.get_one(Job, lease.job_id)
            steps = range(2, job.payload["budget"]["steps"] + 1, 2)
            accuracies = {step: curve.get(step, 0.5) for step in steps}
            session.add_all(evaluation(job.id, step, value) for step, value in accuracies.items())
            ended = result(max(accuracies.values()), steps=steps[-1])
            key = JobKey(job.task, job.stage, job.variant, job.seed)
            self.complete(session, lease, ended)
        with self.database.write() as session:
            engine.advance_job(session, lease.job_id, now=NOW)
        return key

    def complete(self, session: Any, lease: queue.Lease, ended: JobResult) -> None:
        content = ended.model_copy(update={"result_version": self.result_version}).model_dump(mode="json")
        queue.complete(session, lease, now=NOW, outcome=ended.outcome, reason=ended.reason, result=content)

    def past(self, tmp_path: Path, **changes: Any) -> None:
        """A round of 24 variants that rise by 0.01, 0.02 ... 0.24 from step 2 to step 4; its baseline does not."""
        self.submit(resolve(tmp_path, round="past", variants=MANY, **changes))
        lag = iter(range(1, 25))
        while (key := self.waiting()) is not None:
            self.run({} if key.variant == BASELINE else {2: 0.2, 4: 0.2 + next(lag) / 100})

    def waiting(self) -> JobKey | None:
        with self.database.read() as session:
            job = session.scalars(select(Job).where(Job.state == "queued").order_by(Job.id)).first()
            return job and JobKey(job.task, job.stage, job.variant, job.seed)

    def bounds(self) -> EarlyStop | None:
        """Of the job that waits."""
        with self.database.read() as session:
            payload = session.scalars(select(Job.payload).where(Job.state == "queued")).one()
            return payload["early_stop"] and EarlyStop.from_json(payload["early_stop"])


def evaluation(job_id: int, step: int, accuracy: float) -> Evaluation:
    return Evaluation(
        job_id=job_id,
        step=step,
        seconds=float(step),
        tokens=100 * step,
        train_loss=1.0,
        val_loss=1.0,
        val_tok_acc=accuracy,
        val_seq_acc=0.0,
        distinct_predictions=4,
        correct=[0] * 10,
    )


def stopped() -> JobResult:
    whole = result(0.25, steps=2).metrics
    assert whole is not None
    return JobResult(outcome=Outcome.STOPPED, reason=REASON, partial=whole, usage=USAGE)


def test_bounds__from_the_pairs_of_whole_runs(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))

    found = rig.bounds()

    assert rig.waiting() == JobKey("s4", "quick", "new", 0)
    assert found is not None
    assert (found.metric, found.min_delta, found.error_rate, found.pairs) == (
        "best_val_tok_acc",
        0.001,
        0.05,
        24,
    )
    (bound,) = found.bounds
    largest = 0.24 / remaining(2, 4)  # one of 24 may be exceeded at 5 %
    assert (bound.step, bound.baseline) == (2, 0.5)
    assert bound.least == pytest.approx(0.5 + 0.001 - largest * remaining(2, 4) - ROUNDING)


@pytest.mark.parametrize(
    "changes",
    [
        {},  # off
        {"early_stop": {"min_runs": 25}},
        {"early_stop": {"error_rate": 0.01}},  # 24 pairs say nothing of one in a hundred
        {"early_stop": ON, "seeds": [5], "optimizer": {"lr": 1e-3}},  # the past was trained otherwise
    ],
)
def test_bounds__none(database: Database, tmp_path: Path, changes: dict[str, Any]) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, **changes))
    if rig.waiting() == JobKey("s4", "quick", BASELINE, 5):
        rig.run({})
    waiting = rig.waiting()
    assert waiting is not None
    assert waiting.variant == "new"
    assert rig.bounds() is None


def test_bounds__of_another_seed_each_baseline_counts_once(database: Database, tmp_path: Path) -> None:
    """24 variants held against one baseline are one draw of its luck."""
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON, seeds=[5]))
    rig.run({})
    assert rig.waiting() == JobKey("s4", "quick", "new", 5)
    assert rig.bounds() is None
    with database.write() as session:
        interventions.cancel(session, "r2", by="me", now=NOW)
    one = {"new": NEW["new"]}
    rig.submit(resolve(tmp_path, round="seeds", variants=one, seeds=[*range(10, 29)]))
    while (key := rig.waiting()) is not None:
        rig.run({} if key.variant == BASELINE else {2: 0.4, 4: 0.3})
    rig.submit(resolve(tmp_path, round="r3", variants=NEW, early_stop=ON, seeds=[6]))
    rig.run({})
    found = rig.bounds()
    assert found is not None
    assert found.pairs == 20
    careful = {"error_rate": 0.04, "min_runs": 20}  # wants 24 pairs, which the past has of its own seed
    rig.submit(resolve(tmp_path, round="r4", variants=NEW, early_stop=careful, seeds=[0]))
    with database.read() as session:
        payload = session.scalars(select(Job.payload).where(Job.state == "queued", Job.seed == 0)).one()
    assert payload["early_stop"]["pairs"] == 24


def test_bounds__not_of_a_baseline_a_control_arm_or_a_run_that_confirms(
    database: Database, tmp_path: Path
) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path, seeds=[7])
    confirm = {"name": "confirm", "steps": 4, "eval_every": 2, "confirm": {"seeds": 2}}
    stages = [{"name": "quick", "steps": 4, "eval_every": 2}, confirm]
    one = {"new": NEW["new"]}
    rig.submit(
        resolve(tmp_path, round="r2", variants=one, control="aa", early_stop=ON, seeds=[7], stages=stages)
    )

    has_bounds = {}
    while (key := rig.waiting()) is not None:
        has_bounds[key.stage, key.variant] = rig.bounds() is not None
        rig.run({4: 0.6} if key.variant != BASELINE else {})

    assert has_bounds == {
        ("quick", "new"): True,
        ("quick", "aa"): False,
        ("confirm", BASELINE): False,
        ("confirm", "new"): False,
    }


def test_bounds__a_stage_that_goes_on_looks_at_its_own_steps(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.submit(resolve(tmp_path, round="past", variants=MANY))
    while (key := rig.waiting()) is not None:
        rig.run({} if key.variant == BASELINE else {4: 0.6, 6: 0.6, 8: 0.7})
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))
    rig.run({4: 0.7})

    found = rig.bounds()

    assert rig.waiting() == JobKey("s4", "med", "new", 0)
    assert found is not None
    assert [bound.step for bound in found.bounds] == [6]


@pytest.mark.parametrize("result_version", [None, RESULT_VERSION - 1])
def test_bounds__not_from_runs_of_another_version(
    database: Database, tmp_path: Path, result_version: int | None
) -> None:
    rig = CurveRig(database)
    rig.result_version = result_version
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))
    assert rig.bounds() is None


def test_bounds__not_from_runs_that_carried_some(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))
    rig.run({})  # within its bounds
    found = rig.bounds()
    assert found is not None
    assert found.pairs == 24


def test_stopped__is_a_verdict_without_a_number(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    resolved = resolve(tmp_path, round="r2", variants=NEW, early_stop=ON)
    round_id = rig.submit(resolved)
    rig.run_next(stopped())
    rig.run({4: 0.4})

    found = {(one["stage"], one["config"]): one for one in records(database, "r2")}
    job, decision = (
        found["quick", "new"],
        [one for one in records(database, "r2") if one["config"] == "new"][1],
    )

    assert {name: job[name] for name in ("status", "steps", "stopped_at", "tokens", "seconds", "error")} == {
        "status": "stopped",
        "steps": 2,
        "stopped_at": 2,
        "tokens": 200,
        "seconds": 2.0,
        "error": REASON,
    }
    unknown = (
        "best_val_tok_acc best_val_loss best_val_seq_acc final_val_tok_acc d_acc d_loss d_acc_ci p_value"
    )
    assert {job[name] for name in unknown.split()} == {None}
    assert job["caveats"] == decision["caveats"] == ["stopped_early"]
    assert (decision["status"], decision["reason"]) == ("pruned", f"stopped: {REASON}")
    assert (decision["d_acc"], decision["best_val_tok_acc"], decision["n_seeds"]) == (None, None, None)
    assert decision["n_tried"] == 2  # one that was stopped has been tried
    assert decision["q_value"] == 1.0
    assert found["quick", "other"]["stopped_at"] is None
    assert not has_failures(records(database, "r2"))
    assert "stopped_early (s4): the run was stopped" in "\n".join(lines(database, "r2", "summary"))
    with database.write() as session:
        assert not interventions.retry(session, "r2", by="me", now=NOW).changed
        shown = shown_decisions.of_task(session, round_id, resolved, "s4").shown
    assert [one.caveats for one in shown if one.key.variant == "new"] == [["stopped_early"]]


def test_stopped__answers_what_computes_the_same_in_its_round(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    twins = {name: {"layer_start": 1, "alpha_init": -0.123} for name in ("new", "again")}
    rig.submit(resolve(tmp_path, round="r2", variants=twins, early_stop=ON))
    rig.run_next(stopped())
    assert rig.run_next(stopped()) is None
    found = [one for one in records(database, "r2") if one["config"] != BASELINE]
    assert [(one["config"], one["status"], one["reason"]) for one in found if one["stage"] == "decision"] == [
        ("new", "pruned", f"stopped: {REASON}"),
        ("again", "pruned", f"stopped: {REASON}"),
    ]
    job = next(one for one in found if (one["config"], one["stage"]) == ("again", "quick"))
    assert (job["status"], job["cached_from"] is not None, job["best_val_tok_acc"]) == ("cached", True, None)
    assert {tuple(one["caveats"]) for one in found} == {("stopped_early",)}


def test_stopped__is_no_result_for_a_round_that_stops_nothing(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))
    rig.run_next(stopped())
    rig.run({})
    rig.submit(resolve(tmp_path, round="r3", variants=NEW))

    assert rig.waiting() == JobKey("s4", "quick", "new", 0)
    rig.run({4: 0.6})
    with database.read() as session:
        jobs = session.scalars(select(Job).where(Job.round.has(name="r3"), Job.stage == "quick")).all()
        verdict = session.scalars(select(Decision).where(Decision.round.has(name="r3"))).first()
        told = {job.variant: job.outcome for job in jobs}
        assert told == {BASELINE: "cached", "new": "ok"}
        assert (
            len(
                {
                    job.fingerprint
                    for job in session.scalars(select(Job).where(Job.variant == "new", Job.stage == "quick"))
                }
            )
            == 1
        )
        assert verdict is not None
        assert (verdict.decision, verdict.d_acc) == ("promoted", 0.1)


def test_stopped__at_the_last_stage_is_adjusted_without_its_scores(
    database: Database, tmp_path: Path
) -> None:
    """Dunnett's test would need them; the control has runs enough for it."""
    stages = [{"name": "quick", "steps": 4, "eval_every": 2}]
    rig = CurveRig(database)
    rig.past(tmp_path, stages=stages)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON, stages=stages, baseline_seeds=3))
    rig.run_next(stopped())
    for accuracy in (0.4, 0.45, 0.48):
        rig.run({4: accuracy})

    decisions = {one["config"]: one for one in records(database, "r2") if one["stage"] == "decision"}

    assert rig.waiting() is None
    assert (decisions["new"]["adjusted_p"], decisions["new"]["adjusted_by"]) == (1.0, "holm")


def test_bounds__stay_with_a_job_that_is_taken_back(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))
    before = rig.bounds()
    with database.write() as session:
        take_next(session, worker_id=rig.worker_id, now=NOW, lease_for=timedelta(minutes=1))
        queue.requeue_expired(session, now=NOW + timedelta(minutes=2))
    assert before is not None
    assert rig.bounds() == before


def test_stopped__counts_as_accelerator_time(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))
    collector = FromDatabase(database, Watch(database))

    def seconds() -> float:
        (found,) = (one for one in collector.collect() if one.name == "fsq_accelerator_seconds")
        return found.samples[0].value

    before = seconds()
    rig.run_next(stopped())

    assert seconds() == before + 2.0


def test_whole_results__are_shared_with_rounds_that_stop_early(database: Database, tmp_path: Path) -> None:
    rig = CurveRig(database)
    rig.past(tmp_path)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW))
    while rig.waiting():
        rig.run({})
    rig.submit(resolve(tmp_path, round="r3", variants=NEW, early_stop=ON))
    assert rig.waiting() is None
    assert {one["status"] for one in records(database, "r3") if one["stage"] != "decision"} == {"cached"}


def test_effects__what_was_stopped_is_tried_and_never_pooled() -> None:
    gone: Record = samples.job("l2", seed=1, d_acc=None, status="stopped", caveats=["stopped_early"])
    rows = [
        *samples.two_seeds(),
        samples.job("l3", d_acc=0.05),
        samples.job("l3", seed=1, d_acc=None, status="stopped"),
    ]
    report = effects.of_rounds([samples.of_round([*rows, gone])])
    found = {(one.variant, one.stage): one for one in report.effects}
    assert [found[name, "quick"].delta for name in ("l2", "l3")] == [None, None]
    assert found["l3", "quick"].tried == 4  # with one that diverged
    before = effects.of_rounds([samples.of_round(samples.two_seeds())])
    alone = next(one for one in before.effects if (one.variant, one.stage) == ("l1", "quick"))
    q_value = found["l1", "quick"].q_value
    assert q_value is not None
    assert alone.q_value is not None
    assert q_value >= alone.q_value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prune": {"rule": "evidence"}},
            "the rule 'evidence' does not prune each run below min_delta by itself",
        ),
        ({"prune": {"rule": "top_k"}}, "the rule 'top_k' does not prune"),
        (
            {"stages": [{"name": "quick", "seconds": 5}]},
            "early_stop: needs steps in every stage that selects; quick",
        ),
        ({"early_stop": {"error_rate": 0}}, "error_rate"),
        ({"early_stop": {"rate": 0.1}}, "unknown key 'rate'"),
    ],
)
def test_round__what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRound, match=message):
        resolve(tmp_path, **({"early_stop": ON} | changes))


def test_digest__another_round_and_the_same_jobs(tmp_path: Path) -> None:
    without, with_ = resolve(tmp_path), resolve(tmp_path, early_stop=ON)
    assert without.digest != with_.digest
    keys = list(without.largest_plan())
    assert [without.job(key).fingerprint for key in keys] == [with_.job(key).fingerprint for key in keys]


@pytest.mark.parametrize(
    ("error_rate", "min_runs", "pairs"), [(0.05, 20, 20), (0.05, 21, None), (0.04, 20, None)]
)
def test_bounds__not_before_there_are_pairs_enough(
    database: Database, tmp_path: Path, error_rate: float, min_runs: int, pairs: int | None
) -> None:
    """Twenty seeds do for an error rate of 5 %, where the round does not ask for more; 4 % takes 24."""
    rig = CurveRig(database)
    one = {"new": NEW["new"]}
    rig.submit(resolve(tmp_path, round="seeds", variants=one, seeds=[*range(10, 30)]))
    while (key := rig.waiting()) is not None:
        rig.run({} if key.variant == BASELINE else {2: 0.4, 4: 0.3})
    asked = {"error_rate": error_rate, "min_runs": min_runs}
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=asked, seeds=[5]))
    rig.run({})
    found = rig.bounds()
    assert (found and found.pairs) == pairs


def test_bounds__none_where_a_stage_that_goes_on_has_one_evaluation_left(
    database: Database, tmp_path: Path
) -> None:
    stages = [{"name": "quick", "steps": 4, "eval_every": 2}, {"name": "med", "steps": 6, "eval_every": 2}]
    rig = CurveRig(database)
    rig.submit(resolve(tmp_path, round="past", variants=MANY, stages=stages))
    while (key := rig.waiting()) is not None:
        rig.run({} if key.variant == BASELINE else {4: 0.6, 6: 0.7})
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON, stages=stages))
    rig.run({4: 0.7})
    assert rig.waiting() == JobKey("s4", "med", "new", 0)
    assert rig.bounds() is None


def test_bounds__none_where_the_baseline_of_the_past_is_too_long_ago(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the latest runs all are variants: the baseline that they were held against came before them."""
    rig = CurveRig(database)
    rig.past(tmp_path)
    monkeypatch.setattr("orchestrator.early_stop.MOST_RUNS", 24)
    rig.submit(resolve(tmp_path, round="r2", variants=NEW, early_stop=ON))
    assert rig.waiting() == JobKey("s4", "quick", "new", 0)
    assert rig.bounds() is None
