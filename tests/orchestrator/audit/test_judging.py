"""What holds of the audit of any records."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import reporting
from orchestrator.audit.finding import EXPLANATIONS, Check
from orchestrator.audit.judging import audit
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import DELTAS, decision, row, run

NAMES = st.sampled_from(["baseline", "head_l8", "scalar_l12"])

RUNS = st.builds(
    run,
    NAMES,
    st.none() | st.sampled_from([0.0, 1.0, 0.25, 0.5]) | st.floats(0, 1),
    loss=st.none() | st.sampled_from([1.0, 2.0]) | st.floats(-10, 10),
    round=st.sampled_from(["20", "98", "r"]),
    task=st.sampled_from(["mbpp", "arc_mc_seed1", "(x)"]),
    stage=st.sampled_from(["quick", "med", "probe", ""]),
    seed=st.none() | st.integers(0, 2),
    status=st.sampled_from(["ok", "fail", "cached", ""]),
    steps=st.none() | st.integers(0, 100),
    n_tokens=st.none() | st.integers(0, 100),
    is_own=st.booleans(),
)

DECISIONS = st.builds(
    decision,
    NAMES,
    st.sampled_from(["pruned", "promoted", "flagged"]),
    st.sampled_from(
        ["", "quick_drop -1.00pp < -0.50pp", "best_quick x +1.00pp < promote_gate +0.80pp", "1 < 2"]
    ),
    round=st.sampled_from(["20", "98", "r"]),
    task=st.sampled_from(["mbpp", "arc_mc_seed1"]),
    stage=st.sampled_from(["quick", "med"]),
    is_own=st.booleans(),
)

HISTORIES = st.builds(
    History,
    st.lists(RUNS, max_size=25),
    st.lists(DECISIONS, max_size=5),
    st.lists(st.builds(row, DELTAS), max_size=5),
)


@given(HISTORIES)
def test_audit__every_finding_rests_on_records_that_are_there(history: History) -> None:
    found = audit(history)
    known = {each.source for each in (*history.runs, *history.decisions, *history.ledger)}
    assert set(found.findings) == set(Check)
    for check, findings in found.findings.items():
        for finding in findings:
            assert finding.check is check
            assert finding.text.isprintable()
            assert finding.records
            assert set(finding.records) <= known
    json.dumps(reporting.as_json(found), allow_nan=False)
    assert reporting.as_text(found).count("\n  - ") == sum(map(len, found.findings.values()))
    assert reporting.as_markdown(found).count("\n- ") == sum(map(len, found.findings.values()))


@given(HISTORIES)
def test_audit__is_the_same_every_time(history: History) -> None:
    assert reporting.as_json(audit(history)) == reporting.as_json(audit(history))


def crowded(number: int) -> History:
    """So much alike that the audit finds a lot."""
    rng = random.Random(number)
    runs = [
        run(
            rng.choice(["baseline", "head_l8", "scalar_l12"]),
            rng.choice([0.25, 0.5]),
            loss=rng.choice([1.0, 2.0]),
            round=rng.choice(["20", "98", "r"]),
            task=rng.choice(["mbpp", "arc_mc_seed1", "(x)"]),
            stage=rng.choice(["quick", "med"]),
        )
        for _ in range(30)
    ]
    rows = [row(rng.choice([0.5, 1.0]), rng.choice([0.5, 1.0]), family=rng.choice("abcd")) for _ in range(9)]
    return History(runs, [], rows)


AUDITS = """
import pickle, sys
from orchestrator.audit import judging, reporting
for history in pickle.load(sys.stdin.buffer):
    print(reporting.as_json(judging.audit(history)))
"""


def test_audit__is_the_same_in_every_process() -> None:
    histories = pickle.dumps([crowded(number) for number in range(6)])
    one, other = (
        subprocess.run(
            [sys.executable, "-c", AUDITS],
            input=histories,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert one == other


def test_audit__of_nothing() -> None:
    assert not any(audit(History()).findings.values())
    assert reporting.as_text(audit(History())).startswith("0 findings on 0 runs")


def test_explanations__of_every_check() -> None:
    assert set(EXPLANATIONS) == set(Check)
