"""Labels that contradict the rest of a record."""

from __future__ import annotations

import pytest

from orchestrator.audit import labels
from orchestrator.history.entries import History, LedgerRow, Run
from tests.orchestrator.audit.made import row, run, texts

PUNC = {"run_dir": "runs/1/punc_restore_sft/no_fs", "dataset": "hotpot_qa"}


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (
            [run(task="hotpot_seed1", seed=1, **PUNC)],
            "tasks labelled hotpot ran punc_restore_sft on hotpot_qa",
        ),
        ([run(task="t_seed1", seed=2)], "round 1 t_seed1 quick baseline was run with seed 2"),
        ([run(mode="prompt_fs")], "round 1 t quick baseline seed 0 ran as prompt_fs"),
        ([run("head_l8", run_dir="runs/1/x_sft/no_fs")], "round 1 t quick head_l8 seed 0 ran as no_fs"),
        ([run(status="fail")], "is 'fail' with numbers"),
        ([run(accuracy=None, loss=None)], "is 'ok' without numbers"),
        ([run(accuracy=None, loss=None, status="cached")], "is 'cached' without numbers"),
        ([run(run_dir="x"), run("a", run_dir="x")], "2 records name the same folder x"),
        ([run(task="(no task)")], "round 1: 1 records do not say which task they are of"),
        ([run(source="_round20_x.jsonl:3")], "_round20_x.jsonl holds 1 records of round 1"),
    ],
)
def test_labels__of_runs(runs: list[Run], says: str) -> None:
    (found,) = labels.judge(History(runs))
    assert says in found.text


def test_labels__of_own_rounds() -> None:
    """The control arm is the baseline under another seed, and tasks and variants may be called anything."""
    own = {"is_own": True, "run_dir": ""}
    runs = [
        run(mode="no_fs", **own),
        run("aa", mode="no_fs", **own),
        run("no_fs", mode="prompt_fs", **own),
        run("head_l8", task="arc_seed5", mode="prompt_fs", **own),
        run("a", None, loss=None, status="diverged", **own),
        run("b", None, loss=None, status="cached", **own),  # answered by one that diverged
    ]
    assert texts(labels.judge(History(runs))) == []
    wrong = [run("aa", mode="no_fs"), run("head_l8", mode="no_fs", **own), run(mode="prompt_fs", **own)]
    assert texts(labels.judge(History(wrong))) == [
        "round 1 t quick aa seed 0 ran as no_fs",
        "round 1 t quick head_l8 seed 0 ran as no_fs",
        "round 1 t quick baseline seed 0 ran as prompt_fs",
    ]


def test_labels__in_order() -> None:
    runs = [
        run(task="punc_seed1", seed=1, **PUNC),
        run("a", task="punc_seed1", seed=1, run_dir="runs/2/punc_restore_sft/prompt_fs", mode="prompt_fs"),
        run("bsz", None, loss=None, stage="probe"),
        run("b", None, loss=None, status="fail"),
    ]
    assert texts(labels.judge(History(runs))) == []


def test_labels__of_the_ledger() -> None:
    rows = [row(0.01, -0.01, is_reversal=False), row(0.01, 0.01, "u_seed3", is_reversal=False)]
    family, mark = labels.judge(History(ledger=rows))
    assert family.text == "ledger: the family t holds several kinds of task: t 1, u 1"
    assert mark.text == "ledger: round 77 t_seed1 is marked no reversal; its deltas say otherwise"


@pytest.mark.parametrize(
    ("ledger", "says"),
    [
        (row(0.25, 0.125, quick_config="a"), []),
        (row(0.5, 0.125, quick_config="a"), ["has the quick delta +50.00 pp; the records give +25.00 pp"]),
        (row(0.25, 0.5, quick_config="a"), ["has the med delta +50.00 pp; the records give +12.50 pp"]),
        (row(0.25, 0.125, quick_config="b"), ["names b the best at quick; it is a"]),
    ],
)
def test_labels__the_ledger_against_the_records(ledger: LedgerRow, says: list[str]) -> None:
    of = {"round": "77", "task": "t_seed1", "seed": 1}
    runs = [
        run(**of),
        run("a", 0.75, **of),
        run("b", 0.5, **of),
        run(stage="med", **of),
        run("a", 0.625, stage="med", **of),
    ]
    found = texts(labels.judge(History(runs, ledger=[ledger])))
    assert len(found) == len(says)
    assert all(text in one for text, one in zip(says, found, strict=True))
