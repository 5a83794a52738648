"""What a kill costs: a job in training whose worker or training process is killed again and again.

    python benchmarks/recovery.py [--kills 20] [--database URL] [-o benchmarks/results/recovery.json]

For each kill (SIGKILL at a random instant, the worker started again at once): seconds until the job runs again, and
seconds lost, that is the time between the last evaluation before the kill and the first new one after it, less the
interval between evaluations when nothing happens. Last, a second worker on another device takes over when the lease
expires.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import yaml
from machine import machine
from sqlalchemy import select

from db.events import EventKind
from db.session import Database, open_current
from db.tables import Event

FSQ = Path(sys.executable).with_name("fsq")
SEED = 1
LEASE_SECONDS = 15  # of the worker that is replaced by another; the default is 60

ROUND = {
    "round": "recovery",
    "model": {"random": {"layers": 3, "dim": 64, "vocab": 256}, "tokenizer": "bytes", "dtype": "float32"},
    "stages": [{"name": "quick", "steps": 1_000_000, "eval_every": 10}],
    "tasks": {"s4": {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}},
    "variants": {"noop": {"layer_start": 9}},
}


class Bench:
    """A round of one endless job, and the workers that are killed over it."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "FSQ_HOME": str(folder),
            "FSQ_DATABASE_URL": database_url,
            "FSQ_LEASE_SECONDS": str(LEASE_SECONDS),
            "FSQ_MAX_ATTEMPTS": "1000",
        }
        path = folder / "recovery.yaml"
        path.write_text(yaml.safe_dump(ROUND, sort_keys=False))
        subprocess.run([FSQ, "submit", path], env=self._environment, check=True, stderr=subprocess.DEVNULL)
        self.database: Database = open_current(database_url)

    @contextmanager
    def worker(self, device: str = "cpu") -> Iterator[subprocess.Popen[bytes]]:
        with (self._folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [FSQ, "work", "--device", device], env=self._environment, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def times(self, kind: EventKind, after: int = 0) -> list[tuple[int, datetime]]:
        """Number and time of the events of a kind."""
        query = select(Event.number, Event.at).where(Event.kind == kind, Event.number > after)
        with self.database.read() as session:
            return [(number, at) for number, at in session.execute(query.order_by(Event.number))]

    def wait_for(self, kind: EventKind, *, after: int, count: int = 1) -> list[tuple[int, datetime]]:
        deadline = time.monotonic() + 300
        while len(found := self.times(kind, after)) < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"no {kind} within 300 s; see {self._folder}")
            time.sleep(0.01)
        return found

    def interval(self, count: int = 30) -> float:
        """Seconds from evaluation to evaluation when nothing happens."""
        with self.worker():
            times = [at for _, at in self.wait_for(EventKind.EVALUATED, after=0, count=count)]
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times[5:])]
        return median(gaps)

    def kill(
        self, kills: int, interval: float, which: Callable[[subprocess.Popen[bytes]], int]
    ) -> dict[str, Any]:
        """Kills again and again, a worker or its child, and measures each time."""
        rng = random.Random(SEED)
        back, lost = [], []
        for _ in range(kills):
            last = max([0, *(number for number, _ in self.times(EventKind.JOB_STARTED))])
            with self.worker() as process:
                self._after(last)
                time.sleep(rng.uniform(0, 2 * interval))
                number, reached = self.times(EventKind.EVALUATED)[-1]
                killed = time.time()
                os.kill(which(process), signal.SIGKILL)
                if which is own_pid:
                    process.wait()
                    with self.worker():
                        started, new = self._after(number)
                else:
                    started, new = self._after(number)
            back.append(started.timestamp() - killed)
            lost.append(max(0.0, (new - reached).total_seconds() - interval))
        return {"kills": kills, "seconds_until_running": spread(back), "seconds_lost": spread(lost)}

    def _after(self, number: int) -> tuple[datetime, datetime]:
        """When the job ran again after the event of this number, and when it had a new evaluation."""
        (begun, started), *_ = self.wait_for(EventKind.JOB_STARTED, after=number)
        return started, self._first_new(begun)

    def _first_new(self, begun: int) -> datetime:
        """The first evaluation of an attempt that no attempt before it had."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with self.database.read() as session:
                rows = session.execute(
                    select(Event.number, Event.at, Event.data)
                    .where(Event.kind == EventKind.EVALUATED)
                    .order_by(Event.number)
                ).all()
            known = max((row.data["step"] for row in rows if row.number < begun), default=0)
            for row in rows:
                if row.number > begun and row.data["step"] > known:
                    at: datetime = row.at
                    return at
            time.sleep(0.05)
        raise SystemExit("the job does not go on")

    def taken_over(self) -> float:
        """Seconds from the death of a worker until one on another device runs its job."""
        last = max([0, *(number for number, _ in self.times(EventKind.EVALUATED))])
        with self.worker() as holder:
            self.wait_for(EventKind.EVALUATED, after=last)
            with self.worker("cpu:1"):
                number, _ = self.wait_for(EventKind.EVALUATED, after=last, count=20)[-1]
                killed = time.time()
                holder.kill()
                (_, started), *_ = self.wait_for(EventKind.JOB_STARTED, after=number)
                return started.timestamp() - killed


def own_pid(process: subprocess.Popen[bytes]) -> int:
    return process.pid


def child_pid(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[-1])


def spread(values: Sequence[float]) -> dict[str, float]:
    cut = quantiles(values, n=100, method="inclusive")
    return {"median": round(median(values), 2), "p99": round(cut[98], 2), "max": round(max(values), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--database", help="URL of an empty database; default: SQLite in a temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/recovery.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsq-recovery-") as folder:
        bench = Bench(Path(folder), arguments.database or f"sqlite:///{folder}/fsq.db")
        interval = bench.interval()
        found = {
            "machine": machine(),
            "database": bench.database.engine.dialect.name,
            "seconds_between_evaluations": round(interval, 3),
            "worker killed, started again": bench.kill(arguments.kills, interval, own_pid),
            "training process killed": bench.kill(arguments.kills, interval, child_pid),
            "taken over by another device": {
                "lease_seconds": LEASE_SECONDS,
                "seconds_until_running": round(bench.taken_over(), 2),
            },
        }
    print(json.dumps(found, indent=2))
    arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
