"""What `fsq plan` says of a round before it runs: its cost, and what it can never show."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from db.session import Database
from db.tables import Job
from orchestrator import interventions
from orchestrator.errors import BadRound
from orchestrator.search import JobKey
from orchestrator.terminal.forecast import as_text
from orchestrator.views import forecast
from tests.orchestrator.factories import NOW, Rig, resolve, result, round_data
from worker.job import BASELINE, JobResult, Outcome

CONFIRM = [*round_data()["stages"], {"name": "confirm", "steps": 8, "eval_every": 2, "confirm": {"seeds": 5}}]


def test_plan__says_what_so_few_seeds_can_never_show(database: Database, tmp_path: Path) -> None:
    few = resolve(tmp_path, seeds=[0, 1, 2], stages=CONFIRM)
    enough = resolve(tmp_path, seeds=[0, 1, 2, 3, 4], stages=CONFIRM)
    with database.read() as session:
        forecasts = [forecast.of_round(session, one) for one in (few, enough)]
    assert forecasts[0].warnings == (
        "stages quick, med: three paired seeds can never reach p < 0.125 by their signs, whatever they show; "
        "five are the least for p < 0.05",
    )
    assert "  warning: stages quick, med: three paired seeds" in as_text(forecasts[0])
    assert forecasts[1].warnings == ()
    assert forecasts[1].tasks[0].stages["confirm"].jobs == 15


def test_plan__says_which_seeds_a_rule_leaves_out(database: Database, tmp_path: Path) -> None:
    resolved = resolve(
        tmp_path, seeds=[*range(7)], prune={"rule": "evidence", "max_seeds": 5}, stages=CONFIRM[:1]
    )
    with database.read() as session:
        found = forecast.of_round(session, resolved)
    assert found.warnings[-1] == "the rule evidence takes 5 seeds, and leaves out 5, 6"


def test_plan__equal_jobs_cost_once(database: Database, tmp_path: Path) -> None:
    stages = [{"name": "quick", "seconds": 100}]
    variants = {"l1": {"layer_start": 1}, "again": {"layer_start": 1}}
    with database.read() as session:
        found = forecast.of_round(session, resolve(tmp_path, stages=stages, variants=variants))
    assert found.same_as == {"again": "l1"}
    quick = found.tasks[0].stages["quick"]
    assert (quick.jobs, quick.known, found.tasks[0].seconds_at_most) == (3, 1, 200.0)


def test_plan__says_that_a_later_stage_is_shorter(database: Database, tmp_path: Path) -> None:
    stages = [{"name": "quick", "steps": 8, "seconds": 5}, {"name": "med", "steps": 4, "seconds": 5}]
    with database.read() as session:
        found = forecast.of_round(session, resolve(tmp_path, stages=stages))
    assert found.warnings[0] == (
        "med has fewer steps (4) than quick (8): a later stage is meant to be longer, and continues its runs"
    )
    assert "fewer" not in found.warnings[1]


def test_plan__says_that_snapshots_do_not_fit(database: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    size = 12 * resolved.facts.model.n_params
    with database.read() as session:
        fits, does_not = (forecast.of_round(session, resolved, 2 * size - less) for less in (0, 1))
        one_stage = forecast.of_round(session, resolve(tmp_path, stages=round_data()["stages"][:1]), 0)
    assert "train from the start" not in " ".join((*fits.warnings, *one_stage.warnings))
    assert does_not.warnings[0].startswith(
        "later stages train from the start: the snapshots of a baseline and"
    )
    assert does_not.warnings[0].endswith("(FSQ_SNAPSHOT_GIB)")


def test_plan__says_that_the_round_before_it_is_not_there(database: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path, after={"round": "nope"})
    with database.read() as session:
        found = forecast.of_round(session, resolved)
    assert found.missing == "nope"
    assert "  cannot be submitted yet: there is no round named 'nope'" in as_text(found)
    Rig(database).submit(resolve(tmp_path, round="nope"))
    with database.read() as session:
        assert forecast.of_round(session, resolved).missing is None


def test_plan__says_what_the_spread_between_runs_hides(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, seeds=[0, 1], variants={"noop": {"layer_start": 9}}))
    for accuracy in (0.5, 0.6):  # one baseline a seed: the no-op needs no run
        rig.run_next(result(accuracy))
    with database.read() as session:
        found = forecast.of_round(session, resolve(tmp_path, round="r2"))
    sd = 0.1 / 2**0.5
    least = (1.644854 + 0.841621) * sd * 2**0.5  # of one seed
    (warning,) = (warning for warning in found.warnings if "differ by" in warning)
    assert warning.startswith(
        f"s4 at quick: runs of the baseline differ by {100 * sd:.2f} pp (2 runs), so 1 seed "
    )
    assert f"cannot tell less than +{100 * least:.2f} pp" in warning
    assert "the threshold is +0.10 pp" in warning


def test_plan__what_is_certain_of_a_rule_over_seeds(database: Database, tmp_path: Path) -> None:
    stages = [{"name": "quick", "seconds": 10, "eval_every": 2}]
    with database.read() as session:
        found = forecast.of_round(session, resolve(tmp_path, prune={"rule": "evidence"}, stages=stages))
    task = found.tasks[0]
    assert (task.stages["quick"].jobs, task.stages["quick"].certain) == (15, False)
    assert (task.seconds_certain, task.seconds_at_most) == (30.0, 150.0)


def test_plan__of_a_round_that_is_known_whatever_became_of_its_source(
    database: Database, tmp_path: Path
) -> None:
    """Submitting it again changes nothing, so a dry run refuses nothing, though its source runs again."""
    rig = Rig(database)
    for name, seed in (("r0", 7), ("r1", 8)):
        rig.submit(resolve(tmp_path, round=name, seeds=[seed]))
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    variants = [{"mine": {"layer_start": 1}}, {"from": "r0", "where": "any"}]
    taker = resolve(tmp_path, round="r2", after={"round": "r1"}, variants=variants)
    rig.submit(taker)
    with database.write() as session:
        assert interventions.retry(session, "r0", by="me", now=NOW).changed
    with database.read() as session:
        found = forecast.of_round(session, taker)
        other = resolve(tmp_path, round="r3", after={"round": "r1"}, variants=variants)
        with pytest.raises(BadRound, match="the round r0 has not ended"):
            forecast.of_round(session, other)
    found.refuse()
    assert found.waits_for == ("r0",)


def test_plan__counts_the_jobs_of_each_task_by_themselves(database: Database, tmp_path: Path) -> None:
    task = round_data()["tasks"]["s4"]
    tasks = {"a": task, "b": task | {"blanks": 5}}
    with database.read() as session:
        found = forecast.of_round(session, resolve(tmp_path, tasks=tasks))
    assert [(one.task, {stage: n.jobs for stage, n in one.stages.items()}) for one in found.tasks] == [
        ("a", {"quick": 3, "med": 3}),
        ("b", {"quick": 3, "med": 3}),
    ]


def test_plan__takes_the_pace_of_earlier_runs_on_the_same_examples(
    database: Database, tmp_path: Path
) -> None:
    """Those took a second a step, and two seconds beside; a stage that continues costs the difference.

    One whose earlier stage is known of another round has nothing to go on from.
    """
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    with database.read() as session:
        assert forecast.of_round(session, resolve(tmp_path, seeds=[1])).tasks[0].seconds_at_most is None
    rig.run_all({})
    with database.write() as session:
        for job in session.query(Job):
            job.finished_at = NOW + timedelta(seconds=6)
    task = round_data()["tasks"]["s4"]
    with database.read() as session:
        again = forecast.of_round(session, resolve(tmp_path))
        other = forecast.of_round(session, resolve(tmp_path, round="r2", seeds=[1]))
        known = forecast.of_round(session, resolve(tmp_path, round="r2"))
        elsewhere = forecast.of_round(
            session, resolve(tmp_path, round="r3", tasks={"s4": task | {"blanks": 5}})
        )
    assert (other.tasks[0].seconds_certain, other.tasks[0].seconds_at_most) == (3 * 6.0, 6 * 6.0)
    assert elsewhere.tasks[0].seconds_at_most is None
    assert [(one.jobs, one.known) for one in again.tasks[0].stages.values()] == [(3, 3), (3, 0)]
    assert (again.tasks[0].seconds_certain, again.tasks[0].seconds_at_most) == (0.0, 3 * 6.0)
    assert (known.tasks[0].seconds_certain, known.tasks[0].seconds_at_most) == (0.0, 3 * 10.0)
    text = as_text(again)
    assert "  quick      3 jobs, 3 of which need no training" in text
    assert "  med        at most 3 jobs\n" in text


QUICK = round_data()["stages"][:1]  # of 4 steps


@pytest.fixture
def measured(database: Database, tmp_path: Path) -> Database:
    """Where a baseline and two variants ran, of a second a step each."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path, stages=QUICK))
    rig.run_all({})
    return database


def with_copies(session: Session, variant: str, count: int, **changes: Any) -> None:
    """Stores the job of a variant so many times again, changed."""
    stored = session.execute(select(Job.__table__).where(Job.variant == variant)).mappings().one()
    copied = {name: value for name, value in stored.items() if name != "id"} | changes
    session.execute(insert(Job), [copied | {"variant": f"v{n}"} for n in range(count)])


def certain_seconds(database: Database, tmp_path: Path, **changes: Any) -> float | None:
    """Of another round on the same examples."""
    with database.read() as session:
        other = resolve(tmp_path, round="r2", seeds=[1], stages=QUICK, **changes)
        return forecast.of_round(session, other).tasks[0].seconds_certain


def test_plan__baselines_and_variants_have_each_their_own_pace(measured: Database, tmp_path: Path) -> None:
    """Of two seconds a step in variants, and one in the baseline, which the control arm is as well."""
    with measured.write() as session:
        for job in session.query(Job).where(Job.variant != BASELINE):
            assert job.result is not None
            metrics = job.result["metrics"]
            job.result = job.result | {"metrics": metrics | {"seconds": 2 * metrics["seconds"]}}
    assert certain_seconds(measured, tmp_path, control="aa") == 2 * 4.0 + 2 * 8.0


def test_plan__finds_the_pace_of_a_task_however_many_jobs_of_others_ran_since(
    measured: Database, tmp_path: Path
) -> None:
    with measured.write() as session:
        payload = session.scalars(select(Job.payload).where(Job.variant == BASELINE)).one()
        with_copies(session, BASELINE, 1000, payload=payload | {"examples_digest": "other"})
    assert certain_seconds(measured, tmp_path) == 3 * 4.0


def test_plan__finds_the_pace_of_baselines_however_many_variants_ran_since(
    measured: Database, tmp_path: Path
) -> None:
    slow = result(0.2).model_dump(mode="json")
    slow["metrics"]["seconds"] = 8.0
    with measured.write() as session:
        with_copies(session, "l1", 150, result=slow)
    assert certain_seconds(measured, tmp_path) == 4.0 + 2 * 8.0


def test_plan__a_stage_on_another_grid_of_evaluations_trains_from_the_start(
    measured: Database, tmp_path: Path
) -> None:
    stages = [*QUICK, {"name": "med", "steps": 8, "eval_every": 4}]
    with measured.read() as session:
        resolved = resolve(tmp_path, round="r2", seeds=[1], stages=stages)
        found = forecast.of_round(session, resolved)
        of_one_grid = forecast.of_round(session, resolve(tmp_path, round="r2", seeds=[1]))
    assert found.tasks[0].seconds_at_most == 3 * 4.0 + 3 * 8.0
    assert of_one_grid.tasks[0].seconds_at_most == 3 * 8.0
    said = "med trains from the start: it is evaluated every 4 steps, and quick every 2"
    assert [said in warning for warning in found.warnings].count(True) == 1
    assert said not in " ".join(of_one_grid.warnings)
    assert not resolved.job(JobKey("s4", "quick", "l1", 1)).continues


def test_plan__a_stage_goes_on_with_the_last_one_on_its_grid(measured: Database, tmp_path: Path) -> None:
    stages = [
        *QUICK,
        {"name": "med", "steps": 8, "eval_every": 4},
        {"name": "long", "steps": 16, "eval_every": 2},
    ]
    with measured.read() as session:
        resolved = resolve(tmp_path, round="r2", seeds=[1], stages=stages)
        found = forecast.of_round(session, resolved)
    assert found.tasks[0].seconds_at_most == 3 * 4.0 + 3 * 8.0 + 3 * 12.0
    assert "long trains" not in " ".join(found.warnings)
    assert [resolved.job(JobKey("s4", stage["name"], "l1", 1)).continues for stage in stages] == [
        True,
        False,
        False,
    ]


def test_plan__compares_stages_by_what_both_have(database: Database, tmp_path: Path) -> None:
    stages = [{"name": "quick", "seconds": 5}, {"name": "med", "steps": 4}]
    with database.read() as session:
        found = forecast.of_round(session, resolve(tmp_path, stages=stages))
    assert "fewer" not in " ".join(found.warnings)


def test_plan__what_the_spread_hides_is_of_the_seeds_of_each_stage(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1], variants={"noop": {"layer_start": 9}}))
    for accuracy in (0.5, 0.6):
        rig.run_next(result(accuracy))
    with database.read() as session:
        found = forecast.of_round(session, resolve(tmp_path, round="r2", seeds=[2, 3], stages=CONFIRM))
    (warning,) = (warning for warning in found.warnings if "differ by" in warning)
    assert "so 2 seeds cannot tell" in warning
