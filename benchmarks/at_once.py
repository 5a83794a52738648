"""What follows at once: a round of which all is known, and the intervals of decisions, beside SciPy's bootstrap.

    python benchmarks/at_once.py [-o benchmarks/results/at_once.json]

A round whose jobs other rounds have had, submitted under another threshold, on SQLite: seconds until everything is
stored, in how many transactions, and the longest of them; 10,000 jobs are those of ten seeds. Then one delta with
its interval and p-value, on examples of 20 to 200 tokens of which hardly two are alike, and on examples of one token;
SciPy's BCa bootstrap has as many resamples of the same numbers. Each the fastest of three.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from growth import fastest
from machine import machine
from scipy import stats
from service import SUDOKU, resolved, result, round_data
from sqlalchemy import insert

from db.session import open_current
from db.tables import AT_ONCE, Job, Round
from orchestrator import engine
from orchestrator.statistics.examples import RESAMPLES, Outcomes, compare

JOBS = (10, 100, 1_000, 10_000)
MOST_VARIANTS = 1_000
EXAMPLES = (100, 1_000, 10_000)
MOST_FOR_SCIPY = 1_000  # examples: it holds all resamples at once
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def known_round(folder: Path, jobs: int) -> dict[str, float]:
    """A round whose results are all known already."""
    database = open_current(f"sqlite:///{folder / f'{jobs}.db'}")
    arms = min(jobs, MOST_VARIANTS)
    grid = {"layer_start": [1], "alpha_init": [round(-9 + 0.01 * n, 2) for n in range(arms - 1)]}

    def asked(name: str, min_delta: float) -> Any:
        stages = [{"name": "quick", "steps": 4, "eval_every": 2}]
        prune = {"min_delta": min_delta}
        data = {"stages": stages, "tasks": {"t": dict(SUDOKU)}, "seeds": list(range(jobs // arms))}
        return resolved(folder, round_data(name, prune=prune, variants={"grid": grid}, **data))

    before, again = asked("before", 0.001), asked("again", 0.01)
    done = {"state": "done", "outcome": "ok", "result": result(0.2).model_dump(mode="json"), "attempts": 1}
    done |= {"fencing_token": 1, "not_before": AT_ONCE, "created_at": NOW, "finished_at": NOW}
    with database.write() as session:
        row = Round(name="before", digest="", source="", spec={}, facts={}, state="finished", created_at=NOW)
        session.add(row)
        session.flush()
        specs = {key: before.job(key) for key in before.largest_plan()}
        rows = [
            key._asdict() | done | {"round_id": row.id, "fingerprint": spec.fingerprint, "payload": {}}
            for key, spec in specs.items()
        ]
        session.execute(insert(Job), rows)
    took = []
    began = time.perf_counter()
    with database.write() as session:
        round_id = engine.submit(session, again, "", by="benchmark", now=NOW).round_id
    took.append(time.perf_counter() - began)

    def is_behind() -> bool:
        with database.read() as session:
            return session.get_one(Round, round_id).is_behind

    while is_behind():
        began = time.perf_counter()
        with database.write() as session:
            engine.advance(session, round_id, now=NOW)
        took.append(time.perf_counter() - began)
    database.close()
    return {
        "seconds": round(sum(took), 2),
        "transactions": len(took),
        "longest": round(max(took), 2),
    }


def scipy_bootstrap(d: Sequence[int], of: Sequence[int]) -> object:
    def ratio(d: Any, of: Any, axis: int = -1) -> Any:
        return np.sum(d, axis=axis) / np.sum(of, axis=axis)

    return stats.bootstrap(
        (np.array(d, float), np.array(of, float)),
        ratio,
        paired=True,
        vectorized=True,
        method="BCa",
        n_resamples=RESAMPLES,
        batch=100,
        rng=1,
    )


def interval(examples: int, sizes: tuple[int, int]) -> dict[str, float]:
    """Milliseconds for one delta."""
    generator = random.Random(5)
    of = [generator.randint(*sizes) for _ in range(examples)]
    right = [generator.randint(0, size) for size in of]
    other = [min(size, max(0, n + generator.randint(-3, 3))) for n, size in zip(right, of, strict=True)]
    variant, baseline = Outcomes(tuple(right), tuple(of)), Outcomes(tuple(other), tuple(of))
    found = {"fsq": round(fastest(lambda: compare(variant, baseline, ("v", "b")), 3), 1)}
    if examples <= MOST_FOR_SCIPY:
        d = [a - b for a, b in zip(right, other, strict=True)]
        found["scipy"] = round(fastest(lambda: scipy_bootstrap(d, of), 3), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/at_once.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsq-at-once-") as folder:
        known = {jobs: known_round(Path(folder), jobs) for jobs in JOBS}
    found = {
        "machine": machine(numpy=np.__version__),
        "a round of known jobs": known,
        "milliseconds of an interval, 20 to 200 tokens": {n: interval(n, (20, 200)) for n in EXAMPLES},
        "milliseconds of an interval, one token": {n: interval(n, (1, 1)) for n in EXAMPLES},
    }
    print(json.dumps(found, indent=1))
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
