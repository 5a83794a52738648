"""What the queue and its storage cost a search, beside Optuna's storages on the same work in one run.

    pip install optuna            # the peer; without it only fsq is measured
    python benchmarks/storage.py [--jobs 100] [-o benchmarks/results/storage.json]

The work: jobs of 20 evaluations each (Optuna: trials of 20 reported values), one client, nothing computed. `at once`
is how a worker tells of a quick job's evaluations: together. Storages take turns; the fastest of the repetitions
counts.

Then a worker's own queue client on a real round, with all that follows from each job (decisions, next jobs): the
milliseconds of a job that no training can hide, and what part of a second they are. The jobs last a second, in which
another process trains, as a worker's does, and the worker sleeps; and nothing, so that they come back to back. And a
worker itself with its training process, on a round of its own whose jobs train for a second.

What sleeping costs by itself stands beside it: the microseconds to write to a page of memory, and the milliseconds
of a loop in Python, at once and a second later. On a virtual machine whose host keeps track of memory they differ by
far.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import mmap
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import Mock

from job_queue import EVALUATION, databases, enter, take_next
from machine import machine
from service import SUDOKU, resolved, result, round_data
from sqlalchemy import insert
from sqlalchemy.orm import Session

from db import events, queue
from db.clock import clock
from db.queue import Lease
from db.session import open_current
from db.tables import AT_ONCE, Job, Round
from orchestrator import engine, interventions
from orchestrator.terminal.display import Display
from orchestrator.wiring import warm_child
from orchestrator.working import working
from worker.limits import Limits
from worker.queue_client import QueueClient

EVALUATIONS = 20
PAGES = 2048
START_SECONDS = 8.0  # until a process trains
EACH = [EVALUATION | {"step": step} for step in range(1, EVALUATIONS + 1)]


def fsq(url: str, jobs: int, *, at_once: bool) -> None:
    """Claims, evaluates and completes jobs that wait."""
    database = open_current(url)
    worker, now = enter(database), datetime.now(UTC)
    with database.write() as session:
        name = f"r{time.time_ns()}"
        row = Round(name=name, digest="", source="", spec={"parallel": True}, facts={}, created_at=now)
        session.add(row)
        session.flush()
        common = {"task": "t", "stage": "quick", "payload": {}, "not_before": AT_ONCE, "created_at": now}
        common |= {"round_id": row.id, "seed": 0}
        waiting = [{"variant": f"v{i}", "fingerprint": f"{name}{i}"} for i in range(jobs)]
        session.execute(insert(Job), [common | names for names in waiting])

    def transaction(work: Callable[[Session, datetime], Any], lease: Lease | None = None) -> Any:
        with database.write() as session:
            return work(session, clock(session) if lease is None else events.lock(session, lease.round_id))

    ended: dict[str, Any] = {"outcome": "ok", "reason": None, "result": {"outcome": "ok"}}
    parts = [EACH] if at_once else [[one] for one in EACH]
    while lease := transaction(lambda s, now: take_next(s, worker, now)):
        for part in parts:
            transaction(
                lambda s, now, lease=lease, part=part: queue.record_evaluations(s, lease, part, now=now),
                lease,
            )
        transaction(lambda s, now, lease=lease: queue.complete(s, lease, now=now, **ended), lease)
    database.close()


def optuna(storage: Any, jobs: int) -> None:
    """As many trials, asked for, reported on and told."""
    import optuna

    study = optuna.create_study(storage=storage, pruner=optuna.pruners.NopPruner())
    for number in range(jobs):
        trial = study.ask()
        for step in range(1, EVALUATIONS + 1):
            trial.report(0.5, step)
        study.tell(trial, number / jobs)


def peers(folder: Path) -> dict[str, Callable[[int], None]]:
    """Optuna's storages, where it is installed."""
    with suppress(ImportError):
        import optuna as package
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend

        package.logging.set_verbosity(logging.WARNING)
        rdb = RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
        journal = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
        return {
            "optuna, SQLite": lambda jobs: optuna(rdb, jobs),
            "optuna, journal file": lambda jobs: optuna(journal, jobs),
        }
    return {}


def jobs_per_second(runs: dict[str, Callable[[int], None]], jobs: int, repeat: int = 3) -> dict[str, float]:
    fastest = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat):
        for name, run in runs.items():
            began = time.perf_counter()
            run(jobs)
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    return {name: round(jobs / seconds, 1) for name, seconds in fastest.items()}


@contextmanager
def training() -> Iterator[None]:
    """Another process trains meanwhile."""
    command = [sys.executable, str(Path(__file__).with_name("step.py")), "--shape", "quickstart"]
    with subprocess.Popen([*command, "--repeat", str(10**9)], stdout=subprocess.DEVNULL) as process:
        time.sleep(START_SECONDS)
        if process.poll() is not None:
            raise RuntimeError("the process that is to train beside it has ended")
        try:
            yield
        finally:
            process.kill()


def cost_of_sleep() -> dict[str, float]:
    """What memory and Python take at once, and a second later: medians of ten."""
    memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE)

    def touch() -> None:
        for page in range(PAGES):
            memory[page * mmap.PAGESIZE] = 1

    def compute() -> None:
        sorted({str(number): [number] for number in range(5000)})

    found = {}
    for what, work, unit in (
        ("page, microseconds", touch, 1e6 / PAGES),
        ("loop, milliseconds", compute, 1e3),
    ):
        for when, seconds in (("at once", 0.0), ("a second later", 1.0)):
            took = []
            for _ in range(10):
                work()
                time.sleep(seconds)
                began = time.perf_counter()
                work()
                took.append(time.perf_counter() - began)
            found[f"{what}, {when}"] = round(unit * median(took), 2)
    return found


def worker_path(url: str, folder: Path, name: str, jobs: int, job_seconds: float) -> dict[str, float]:
    """A round through a worker's queue client: milliseconds by what was asked."""
    database = open_current(url)
    variants = {"grid": {"layer_start": [1], "alpha_init": [round(-3 + 0.1 * n, 1) for n in range(21)]}}
    tasks = {f"b{blanks}": SUDOKU | {"blanks": blanks} for blanks in (3, 4)}
    wanted = resolved(folder, round_data(name, tasks=tasks, seeds=[0, 1, 2], variants=variants))
    with database.write() as session:
        engine.submit(session, wanted, "", by="benchmark", now=datetime.now(UTC))

    def advance(session: Session, job_id: int, now: datetime) -> object:
        return engine.advance_job(session, job_id, now=now)

    client = QueueClient(database, folder, Limits(), advance, lambda _: True, lambda _: None)
    client.register("cpu", folder / "lock")
    gc.freeze()  # as a worker does
    rng = random.Random(0)
    took: dict[str, list[float]] = {"claim": [], "evaluations": [], "end": []}

    def timed(what: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = call()
        took[what].append(1000 * (time.perf_counter() - began))
        return done

    claim = timed("claim", client.claim)
    while claim and len(took["end"]) < jobs:
        timed("evaluations", lambda claim=claim: client.report(claim.lease, EACH, beat=False))
        time.sleep(job_seconds)
        ended = result(rng.randint(1900, 2400) / 10_000)
        done = timed("end", lambda claim=claim, ended=ended: client.end(claim.lease, ended, [], go_on=True))
        claim = done.next or timed("claim", client.claim)
    client.leave()
    with database.write() as session:
        interventions.cancel(session, name, by="benchmark", now=datetime.now(UTC))
    database.close()
    ends = len(took["end"])
    # of the evaluations the child, which trains on, feels nothing
    shown = (sum(took["claim"]) + sum(took["end"])) / ends
    return {
        "jobs": ends,
        "with a claim of its own": len(took["claim"]),
        **{f"{what}, median": round(median(values), 2) for what, values in took.items()},
        "claims and ends, mean of a job": round(shown, 2),
        "percent of a job of one second": round(shown / 10, 2),
    }


def in_a_worker(url: str, folder: Path) -> dict[str, float]:
    """A worker as `fsq run` has it: milliseconds from a job's end to the next job, its decision included."""
    os.environ |= {"FSQ_HOME": str(folder / "home"), "FSQ_DATABASE_URL": url}
    database = open_current(url)
    variants = {"grid": {"layer_start": [1], "alpha_init": [round(-3 + 0.1 * n, 1) for n in range(20)]}}
    wanted = resolved(
        folder,
        round_data(
            "worker",
            stages=[{"name": "quick", "seconds": 1, "eval_every": 5}],
            tasks={f"b{blanks}": SUDOKU | {"blanks": blanks} for blanks in (3, 4)},
            variants=variants,
        ),
    )
    with database.write() as session:
        engine.submit(session, wanted, "", by="benchmark", now=datetime.now(UTC))
    took: dict[str, list[float]] = {"claim": [], "end": []}

    def timed(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            done = call(*given, **named)
            took[what].append(1000 * (time.perf_counter() - began))
            return done

        return timing

    with warm_child("cpu") as child, working(database, child, Mock(spec=Display), "worker") as service:
        for what in took:
            setattr(service.queue, what, timed(what, getattr(service.queue, what)))
        service.run_until_idle()
    database.close()
    ends = len(took["end"])
    shown = (sum(took["claim"]) + sum(took["end"])) / ends
    return {
        "jobs": ends,
        "end, median": round(median(took["end"]), 2),
        "claims and ends, mean of a job": round(shown, 2),
        "percent of a job of one second": round(shown / 10, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100, help="of each repetition")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/storage.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsq-storage-") as name, databases(Path(name)) as urls:
        folder = Path(name)
        runs: dict[str, Callable[[int], None]] = {
            f"fsq, {database}, {how}": lambda jobs, url=url, at_once=at_once: fsq(url, jobs, at_once=at_once)
            for database, url in urls.items()
            for how, at_once in (("at once", True), ("one by one", False))
        }
        found: dict[str, Any] = {
            "machine": machine(),
            "jobs per second": jobs_per_second(runs | peers(folder), arguments.jobs),
        }
        for database, url in urls.items():
            path = partial(worker_path, url, folder, jobs=min(arguments.jobs, 40))
            with training():
                beside = path("beside", job_seconds=1.0)
            found[f"milliseconds of a job, {database}"] = {
                "beside training": beside,
                "back to back": path("back", job_seconds=0.0),
                "in a worker": in_a_worker(url, folder / database),
            }
        found["what sleeping costs"] = cost_of_sleep()
    print(json.dumps(found, indent=1))
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
