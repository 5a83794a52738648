"""What seeds of one variant say together."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import seeds
from orchestrator.history.entries import History
from orchestrator.statistics.seeds import sign_pattern
from tests.orchestrator.audit.made import DELTAS, row, run


@given(st.lists(DELTAS, max_size=20))
def test_disagree__as_the_pattern_says(values: list[float]) -> None:
    up, level, down = (int(part[:-1]) for part in sign_pattern(values).split("/"))
    assert up + level + down == len(values)
    assert seeds.disagree(values) == (up > 0 and down > 0)
    assert sign_pattern([-value for value in values]) == f"{down}+/{level}=/{up}-"


def test_seeds__disagree() -> None:
    runs = [run(seed=seed) for seed in range(3)]
    runs += [run("head_l8", 0.5 + delta, seed=seed) for seed, delta in enumerate((0.25, 0.0, -0.125))]
    (found,) = seeds.judge(History(runs))
    assert found.text == "round 1 t quick head_l8: 1+/1=/1- (+25.00 pp, +0.00 pp, -12.50 pp)"
    assert len(found.records) == 6
    assert not list(seeds.judge(History([*runs[:2], *runs[3:5]])))


def test_seeds__of_an_own_task_whose_name_has_one() -> None:
    """Only the predecessor spread the seeds of a task over tasks and rounds."""
    task: dict[str, Any] = {"task": "t_seed5", "is_own": True}
    runs = [run(seed=seed, **task) for seed in range(2)]
    runs += [run("head_l8", 0.5 + delta, seed=seed, **task) for seed, delta in enumerate((0.25, -0.125))]
    (found,) = seeds.judge(History(runs))
    assert found.text.startswith("round 1 t_seed5 quick head_l8: 1+/0=/1-")


def test_seeds__over_the_rounds_of_the_ledger() -> None:
    rows = [row(0.01, task="t_seed1"), row(-0.01, task="t_seed2"), row(0.01, task="u_seed1_again")]
    (found,) = seeds.judge(History(ledger=rows))
    assert found.text == "ledger: t quick head_l8: 1+/0=/1- (+1.00 pp, -1.00 pp)"
