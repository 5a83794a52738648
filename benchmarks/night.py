"""A night's accelerator seconds: two rounds as fsq runs them, and as the predecessor ran such rounds.

    python benchmarks/night.py [--steps 80 160] [--each-alone] [-o benchmarks/results/night.json]

The second round comes back to the first one's tasks with new variants and one known under another name. One
`fsq work` takes both: its start counts, submitting does not. With --each-alone each has a `fsq run` of its own, which
counts from the command to its end. After each round the predecessor is emulated job by job on the same code: a fresh
process for each run, nothing known from earlier runs, variants that change nothing trained like others, `med` trained
from scratch. What each of these costs is read off its runs. Both take the same decisions from the same numbers, or
the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from machine import machine
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.session import Database, open_current
from db.tables import Job, Round
from orchestrator import stored_plan
from orchestrator.planner import plan
from orchestrator.rounds import stored_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import Decision, JobKey, Measurement, SearchSpec
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, JobResult, JobSpec
from worker.limits import Limits
from worker.process import Child

FSQ = Path(sys.executable).with_name("fsq")
LONGEST_EVENING = timedelta(minutes=30)
TASK = {"kind": "sudoku", "size": 4, "blanks": 4, "val": 100, "batch_size": 16}
ROUND: dict[str, Any] = {
    "model": {"random": {"layers": 4, "dim": 64, "vocab": 256}, "tokenizer": "bytes", "dtype": "float32"},
    "optimizer": {"lr": 3.0e-3},
    "tasks": {
        "random": TASK | {"mask_region": "random", "train": 4000},
        "suffix": TASK | {"mask_region": "suffix", "train": 180},
    },
}
EVENINGS: dict[str, dict[str, Any]] = {
    "first": {
        "scalar_l2": {"layer_start": 2},
        "trainable_l1": {"layer_start": 1, "alpha_lr": 1.0e-2},
        "head_l1": {"gate": "head", "layer_start": 1, "alpha_lr": 1.0e-2},
        "scalar_l12": {"layer_start": 12},  # no layer is left to seed
    },
    "second": {
        "scalar_l1": {"layer_start": 1},
        "l2_again": {"layer_start": 2},
        "strong_l1": {"layer_start": 1, "alpha_init": 0.0},
        "scalar_l10": {"layer_start": 10},
    },
}


@dataclass(frozen=True)
class Run:
    """One of the predecessor's runs."""

    round: str
    key: JobKey
    spec: JobSpec
    seconds: float  # from the process's start to its end
    trained: float  # of these, seconds of training and evaluation
    score: float | None


class Predecessor:
    """Rounds as the predecessor ran them: of earlier runs it kept the examples, and no weights to go on from."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder, self._cache = folder, cache
        self.runs: list[Run] = []

    def run(self, resolved: ResolvedRound) -> tuple[Decision, ...]:
        """The decisions that it takes over a round."""
        search = replace(resolved.search, no_ops=frozenset())
        results: dict[JobKey, Measurement] = {}
        while jobs := [key for key in plan(search, results).jobs if key not in results]:
            results[jobs[0]] = self._job(resolved, jobs[0])
        return plan(search, results).decisions

    def _job(self, resolved: ResolvedRound, key: JobKey) -> Measurement:
        settings = {variant.name: variant.settings for variant in resolved.spec.named}
        spec = resolved.job(key).model_copy(
            update={"continues": False, "follows": False, "future_seed": settings.get(key.variant)}
        )
        home = self._folder / str(len(self.runs))
        home.mkdir(parents=True)
        (home / "cache").symlink_to(self._cache)
        began = time.monotonic()
        child = Child("cpu", home, Limits())
        child.start_job(spec, home / "log.txt")
        message = None
        while message is None or message.kind != "ended":
            message = child.next_message(60)
        child.stop()
        result = JobResult.from_json(message.content)
        metrics = result.metrics
        score = getattr(metrics, resolved.spec.prune.metric, None)
        trained = metrics.seconds if metrics else 0.0
        self.runs.append(Run(resolved.spec.round, key, spec, time.monotonic() - began, trained, score))
        return Measurement(result.outcome, score, metrics.best_val_loss if metrics else None, result.reason)

    def causes(self, no_ops: dict[str, frozenset[str]]) -> dict[str, float]:
        """Its seconds by what fsq does not spend them on; each run counts once, for the first that applies."""
        seconds = dict.fromkeys(("no-ops", "runs known already", "med from scratch", "fresh processes"), 0.0)
        known: set[str] = set()
        rate: dict[str, float] = {}
        for run in self.runs:
            fingerprint = run.spec.fingerprint
            if run.key.variant in no_ops[run.round]:
                seconds["no-ops"] += run.seconds
                continue
            if fingerprint in known:
                seconds["runs known already"] += run.seconds
                continue
            known.add(fingerprint)
            seconds["fresh processes"] += run.seconds - run.trained
            if run.spec.trajectory in rate:
                seconds["med from scratch"] += rate[run.spec.trajectory]
            rate[run.spec.trajectory] = run.trained
        return {cause: round(value, 1) for cause, value in seconds.items()}


class Fsq:
    """Rounds as fsq runs them: by one worker, as in service, or each by a process of its own (`fsq run`)."""

    def __init__(self, home: Path, *, each_alone: bool) -> None:
        self._environment = os.environ | {"FSQ_HOME": str(home)}
        self._database_url = f"sqlite:///{home / 'fsq.db'}"
        self._log = home / "worker.txt"
        self._each_alone = each_alone
        self._worker: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str | Path) -> str:
        return subprocess.run(
            [FSQ, *arguments], env=self._environment, check=True, capture_output=True, text=True
        ).stdout

    def run(self, path: Path) -> float:
        """Seconds of a round: of `fsq run`, or until its end from its submission or the worker's start."""
        if self._each_alone:
            began = time.monotonic()
            self.command("run", path)
            return time.monotonic() - began
        self.command("submit", path)
        is_new = self._worker is None
        started = datetime.now(UTC)
        worker = self._worker or self._start()
        while datetime.now(UTC) - started < LONGEST_EVENING:
            with self.database() as database, database.read() as session:
                row = stored_round.find(session, path.stem)
                if row.finished_at:
                    return (row.finished_at - (started if is_new else row.created_at)).total_seconds()
            if worker.poll() is not None:
                break
            time.sleep(1)
        raise RuntimeError(f"the round did not come to its end:\n{self._log.read_text()[-2000:]}")

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            self._worker = subprocess.Popen([FSQ, "work"], env=self._environment, stdout=log, stderr=log)
        return self._worker

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = open_current(self._database_url)
        try:
            yield database
        finally:
            database.close()

    def stop(self) -> None:
        if self._worker:
            self._worker.terminate()
            self._worker.wait(60)


def quick_seconds(session: Session, row: Round) -> float:
    """Seconds that the certain jobs of a round took."""
    query = select(Job).where(Job.round_id == row.id, Job.stage == "quick", Job.cached_from_id.is_(None))
    return sum(
        (job.finished_at - job.started_at).total_seconds()
        for job in session.scalars(query)
        if job.started_at and job.finished_at
    )


def verdicts(decisions: tuple[Decision, ...], search: SearchSpec) -> list[tuple[JobKey, str, float | None]]:
    """What was decided of the variants that change something."""
    kept = [decision for decision in decisions if decision.key.variant not in search.no_ops]
    return [(decision.key, Verdict(decision.verdict).value, decision.d_acc) for decision in kept]


def measure(folder: Path, steps: list[int], *, each_alone: bool) -> dict[str, Any]:
    stages = [
        {"name": name, "steps": count, "eval_every": 20}
        for name, count in zip(("quick", "med"), steps, strict=True)
    ]
    home = folder / "fsq"
    (home / "cache").mkdir(parents=True)
    fsq, predecessor = Fsq(home, each_alone=each_alone), Predecessor(folder / "predecessor", home / "cache")
    seconds = {"fsq": 0.0, "predecessor": 0.0}
    same, no_ops = True, {}
    try:
        for name, variants in EVENINGS.items():
            path = folder / f"{name}.yaml"
            path.write_text(
                yaml.safe_dump(
                    ROUND | {"round": name, "stages": stages, "variants": variants}, sort_keys=False
                )
            )
            fsq.command("submit", "--dry-run", path)  # builds the examples
            tasks = json.loads(fsq.command("plan", path, "--json"))["tasks"]
            predicted = sum(task["seconds_certain"] or 0.0 for task in tasks)
            seconds["fsq"] += fsq.run(path)
            with fsq.database() as database, database.read() as session:
                row = stored_round.find(session, name)
                resolved = stored_round.resolve(row)
                quick = quick_seconds(session, row)
                decided, _ = stored_plan.current(session, row.id, resolved)
            no_ops[name] = resolved.search.no_ops
            began = time.monotonic()
            theirs = predecessor.run(resolved)
            seconds["predecessor"] += time.monotonic() - began
            same = same and verdicts(theirs, resolved.search) == verdicts(decided.decisions, resolved.search)
    finally:
        fsq.stop()
    baselines = sum(run.key.variant == BASELINE for run in predecessor.runs)
    return {
        "machine": machine(),
        "steps": steps,
        "each round in a process of its own": each_alone,
        "seconds": {who: round(value, 1) for who, value in seconds.items()},
        "share of the predecessor's seconds": round(seconds["fsq"] / seconds["predecessor"], 3),
        "same decisions from the same numbers": same,
        "certain seconds of the second evening": {
            "as fsq plan said": round(predicted, 1),
            "measured": round(quick, 1),
            "ratio": round(predicted / quick, 2),
        },
        "the predecessor's runs": {"all": len(predecessor.runs), "baselines": baselines},
        "of its seconds": predecessor.causes(no_ops),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs=2, default=[80, 160], help="of quick and of med")
    parser.add_argument("--each-alone", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/night.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsq-night-") as folder:
        found = measure(Path(folder), arguments.steps, each_alone=arguments.each_alone)
    print(json.dumps(found, indent=1))
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
