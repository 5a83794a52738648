"""What is shown while a worker works: plain lines, and the live panel on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.engine import Taken
from orchestrator.evidence import Evidence, SeedEvidence
from orchestrator.search import Decision, JobKey
from orchestrator.terminal.display import (
    BARS,
    LiveDisplay,
    PlainDisplay,
    budget_share,
    display_for,
    duration,
    sparkline,
)
from orchestrator.verdicts import Verdict
from orchestrator.views.outlook import Outlook
from tests.worker.factories import make_job
from worker.job import Budget, Evaluation, JobResult, Metrics, Outcome
from worker.running import RunningJob

EVIDENCE = Evidence(d_acc_ci=(-0.09, -0.01), p_value=0.98, seeds=(SeedEvidence(seed=0, d_acc=-0.05),))
OUTLOOK = Outlook(baseline={2: 0.25, 4: 0.5}, done=1, at_most=4, seconds_left=75.0)


def running() -> RunningJob:
    return RunningJob("r1", "t", "quick", "v1", 0, 1, make_job(steps=4), Path("log.txt"))


def evaluation(step: int, accuracy: float) -> Evaluation:
    return Evaluation(
        step=step,
        seconds=1.0,
        tokens=10,
        train_loss=1.0,
        val_loss=1.0,
        val_tok_acc=accuracy,
        val_seq_acc=0.0,
        distinct_predictions=2,
        correct=(1,),
    )


def play(display: PlainDisplay | LiveDisplay, *, inherited: bool = False) -> None:
    job = running()
    display.started(job)
    if inherited:
        display.evaluated(job, evaluation(2, 0.3))
    display.progressed(job, 3, 1.5, 1.0)
    display.evaluated(job, evaluation(4, 0.45))
    curve = [evaluation(2, 0.3), evaluation(4, 0.45)]
    display.ended(job, JobResult(outcome=Outcome.OK, metrics=Metrics.of(curve)), will_retry=False)
    key = JobKey("t", "quick", "v1", 0)
    pruned = Decision(key, Verdict.PRUNED, "-5.00 pp is below +0.10 pp", -0.05, 0.0)
    display.decided([Taken("r1", pruned, EVIDENCE)])


def test_plain_display__tells_everything_in_lines() -> None:
    console = Console(file=io.StringIO(), width=200, _environ={})
    display = display_for(console, lambda job: OUTLOOK)
    assert isinstance(display, PlainDisplay)
    play(display, inherited=True)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "t quick v1 seed 0: started (1 of at most 4 jobs done, at most 1 min 15 s left)",
        "  continued from step 2, acc 30.00%",
        "  step     4  loss 1.0000  acc 45.00%  baseline 50.00%  (-5.00 pp)",
        "t quick v1 seed 0: best 45.00% at step 4, 4 steps in 1 s",
        "=> t v1 seed 0 pruned at quick: -5.00 pp is below +0.10 pp (95 % [-9.00, -1.00] pp)",
    ]


def test_live_display__panel_with_the_curve_beside_its_baselines() -> None:
    # whatever terminal the tests themselves run on
    console = Console(file=io.StringIO(), width=100, force_terminal=True, _environ={"TERM": "xterm"})
    display = display_for(console, lambda job: OUTLOOK)
    assert isinstance(display, LiveDisplay)
    play(display)
    display.close()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("r1  t quick v1 seed 0", "left in the budget", "1 of at most 4 jobs", "pruned at quick"):
        assert expected in shown
    assert "baseline ▁█ 50.00%" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.integers(0, 500), st.floats(0, 500))
def test_budget_share__whichever_is_further(step: int, seconds: float) -> None:
    share = budget_share(Budget(steps=100, seconds=50), step, seconds)
    assert share == min(1.0, max(step / 100, seconds / 50))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_sparkline__keeps_order(values: list[float]) -> None:
    bars = sparkline(values, min(values), max(values))
    heights = [BARS.index(bar) for bar in bars]
    assert len(bars) == len(values)
    for (a, x), (b, y) in zip(
        zip(values, heights, strict=True), zip(values[1:], heights[1:], strict=True), strict=False
    ):
        assert (a <= b and x <= y) or (a >= b and x >= y)
