"""The service under load: a round of 50,000 jobs, a stream of 100,000 records, 200 readers while a worker writes.

    python benchmarks/service.py [--database URL] [-o benchmarks/results/service.json]

Starts real servers and, for the readers, a real worker; writes to a database of its own (default: SQLite in a
temporary folder). Times are of whole requests as a client on the same machine sees them, in milliseconds: client,
server and worker share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx2 as httpx
import yaml
from machine import machine
from sqlalchemy import insert, text

from db.session import Database, open_current
from db.tables import Decision, Job, JobState, Round, RoundState
from orchestrator.rounds.reading import parse_round
from orchestrator.rounds.resolved_round import ResolvedRound
from worker.job import BASELINE, JobResult, Metrics, Outcome, Usage
from worker.preparation import prepare

FSQ = Path(sys.executable).with_name("fsq")
SMALL_ROUNDS = 500
READERS = 200
READER_SECONDS = 20.0
SUDOKU = {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}


def round_data(name: str, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "round": name,
        "model": {"random": {"layers": 3, "dim": 64, "vocab": 256}, "tokenizer": "bytes", "dtype": "float32"},
        "stages": [
            {"name": "quick", "steps": 4, "eval_every": 2},
            {"name": "med", "steps": 8, "eval_every": 2},
        ],
        "tasks": {"s4": SUDOKU},
        "variants": {"l1": {"layer_start": 1}},
    }
    return data | changes


def resolved(folder: Path, data: dict[str, Any]) -> ResolvedRound:
    spec, _ = parse_round(yaml.safe_dump(data, sort_keys=False).encode(), "round.yaml")
    return ResolvedRound(spec, prepare(spec.model, spec.tasks, folder / "cache", held_out=spec.held_out()))


def large_round(folder: Path) -> ResolvedRound:
    """10 tasks x 10 seeds x 250 arms x 2 stages: 50,000 jobs and 49,800 decisions, if all are promoted."""
    alphas = [round(-3 + 0.01 * number, 2) for number in range(249)]
    tasks = {f"s4_{blanks}": SUDOKU | {"blanks": blanks} for blanks in range(1, 11)}
    variants = {"grid": {"layer_start": [1], "alpha_init": alphas}}
    return resolved(folder, round_data("large", tasks=tasks, seeds=list(range(10)), variants=variants))


def store_finished(database: Database, wanted: ResolvedRound, rng: random.Random) -> None:
    """The round as it would stand after all its jobs had run, every variant promoted at both stages."""
    now = datetime.now(UTC)
    with database.write() as session:
        row = Round(
            name=wanted.spec.round,
            state=RoundState.FINISHED,
            digest=wanted.digest,
            source="",
            spec=wanted.spec.model_dump(mode="json"),
            facts=wanted.facts.model_dump(mode="json"),
            created_at=now,
            finished_at=now,
        )
        session.add(row)
        session.flush()
        jobs, decisions = [], []
        for key in wanted.largest_plan():
            spec = wanted.job(key)
            accuracy = (2000 if key.variant == BASELINE else rng.randint(2010, 2400)) / 10_000
            names = key._asdict() | {"round_id": row.id, "created_at": now}
            jobs.append(
                names
                | {
                    "fingerprint": spec.fingerprint,
                    "payload": spec.model_dump(mode="json"),
                    "state": JobState.DONE,
                    "outcome": Outcome.OK.value,
                    "result": result(accuracy).model_dump(mode="json"),
                    "not_before": now,
                    "started_at": now,
                    "finished_at": now,
                }
            )
            if key.variant != BASELINE:
                verdict = {"decision": "promoted", "reason": "reaches +0.10 pp", "d_acc": accuracy - 0.2}
                decisions.append(names | verdict)
        session.execute(insert(Job), jobs)
        session.execute(insert(Decision), decisions)


def result(accuracy: float) -> JobResult:
    metrics = Metrics(
        best_val_tok_acc=accuracy,
        best_val_loss=1.5,
        best_val_seq_acc=accuracy / 2,
        final_val_tok_acc=accuracy,
        best_step=4,
        steps=4,
        tokens=400,
        seconds=1.0,
        distinct_predictions=4,
    )
    usage = Usage(device="cpu", kernel="chunked", micro_batch=4, padding_share=0.1, peak_memory_bytes=None)
    return JobResult(outcome=Outcome.OK, metrics=metrics, usage=usage)


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A server on a free port: its URL and its process's number."""
    log = Path(environment["FSQ_HOME"]) / "serve.log"
    command = [str(FSQ), "serve", "--port", "0", "--log-format", "json"]
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stderr=output) as server:
        try:
            while b"\n" not in log.read_bytes():
                time.sleep(0.05)
            yield json.loads(log.read_bytes().partition(b"\n")[0])["url"], server.pid
        finally:
            server.terminate()


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """p50 and p99 in milliseconds."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {
        "p50_ms": round(1000 * cuts[49], 1),
        "p99_ms": round(1000 * cuts[98], 1),
        "requests": len(seconds),
    }


def timed(call: Callable[[], httpx.Response], times: int) -> dict[str, Any]:
    def once() -> float:
        begin = time.perf_counter()
        call().raise_for_status()
        return time.perf_counter() - begin

    once()  # the first one imports and connects
    return summary([once() for _ in range(times)])


def memory_bytes(pid: int) -> int:
    """The most memory that a process has used so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure_stream(client: httpx.Client) -> dict[str, Any]:
    """Reads all records of the large round; p50 and p99 are of the waits for each further 1,000 lines."""
    waits, lines, told = [], 0, 0
    begin = last = time.perf_counter()
    with client.stream("GET", "/api/v1/rounds/large/records") as response:
        for chunk in response.iter_bytes():
            lines += chunk.count(b"\n")
            if lines - told >= 1000:
                now = time.perf_counter()
                waits.append(now - last)
                last, told = now, lines
    seconds = time.perf_counter() - begin
    per_second = {"lines": lines, "seconds": round(seconds, 2), "lines_per_second": round(lines / seconds)}
    return per_second | {"first_1000_ms": round(1000 * waits[0]), "each_1000": summary(waits[1:])}


def measure_large(environment: dict[str, str]) -> dict[str, Any]:
    with serving(environment) as (url, pid), httpx.Client(base_url=url, timeout=120) as client:
        before = memory_bytes(pid)
        results = {
            path: timed(lambda path=path: client.get(path), 100)  # type: ignore[misc]
            for path in (
                "/api/v1/rounds/large",
                "/api/v1/rounds",
                "/api/v1/rounds/large/jobs?limit=50",
                "/api/v1/rounds/large/jobs?limit=50&cursor=25000",
                "/api/v1/status",
                "/metrics",
                "/",
                "/rounds/large",
            )
        }
        stream = measure_stream(client)
        stream["server_memory_growth_mib"] = round((memory_bytes(pid) - before) / 2**20)
    begin = time.perf_counter()
    subprocess.run([FSQ, "status"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return {
        "requests": results,
        "records": stream,
        "fsq_status_seconds": round(time.perf_counter() - begin, 2),
    }


async def read(url: str, path: str, until: float, seconds: list[float], failures: list[str]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            begin = time.perf_counter()
            try:
                response = await client.get(path)
                response.raise_for_status()
            except httpx.HTTPError as error:
                failures.append(repr(error))
            seconds.append(time.perf_counter() - begin)
            await asyncio.sleep(random.uniform(0.5, 1.5))


async def all_read(url: str, paths: Sequence[str]) -> tuple[list[float], list[str]]:
    seconds: list[float] = []
    failures: list[str] = []
    until = time.monotonic() + READER_SECONDS
    await asyncio.gather(
        *(read(url, paths[number % len(paths)], until, seconds, failures) for number in range(READERS))
    )
    return seconds, failures


def measure_readers(environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Each of 200 readers asks about once a second for the state of a round that a worker is running."""
    path = folder / "busy.yaml"
    variants = {f"l{number}": {"layer_start": 1, "alpha_init": -number / 100} for number in range(40)}
    path.write_text(yaml.safe_dump(round_data("busy", seeds=[1, 2, 3], variants=variants)))
    subprocess.run([FSQ, "submit", path], env=environment, check=True, capture_output=True)
    with serving(environment) as (url, _):
        worker = subprocess.Popen([FSQ, "work"], env=environment, stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=url) as client:
                while not client.get("/api/v1/rounds/busy").json()["jobs"]["done"]:
                    time.sleep(0.2)
                before = client.get("/api/v1/rounds/busy").json()
                paths = [
                    "/api/v1/rounds/busy",
                    "/api/v1/rounds",
                    "/api/v1/rounds/busy/jobs",
                    "/api/v1/status",
                ]
                seconds, failures = asyncio.run(all_read(url, paths))
                after = client.get("/api/v1/rounds/busy").json()
        finally:
            worker.terminate()
            worker.wait()
    assert worker.returncode == 0
    return summary(seconds) | {
        "readers": READERS,
        "requests_per_second": round(len(seconds) / READER_SECONDS),
        "failures": len(failures),
        "jobs_finished_meanwhile": after["jobs"]["done"] - before["jobs"]["done"],
        "events_written_meanwhile": after["n_events"] - before["n_events"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", help="URL of an empty database; default: SQLite in a temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/service.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = options.database or f"sqlite:///{folder / 'fsq.db'}"
        environment = os.environ | {"FSQ_HOME": name, "FSQ_DATABASE_URL": url, "OMP_WAIT_POLICY": "PASSIVE"}
        database = open_current(url)
        rng = random.Random(0)
        small = resolved(folder, round_data("small"))
        for number in range(SMALL_ROUNDS):
            spec = small.spec.model_copy(update={"round": f"small_{number}"})
            store_finished(database, ResolvedRound(spec, small.facts), rng)
        store_finished(database, large_round(folder), rng)
        if database.engine.dialect.name == "postgresql":
            with database.write() as session:
                session.execute(text("ANALYZE"))  # as it does by itself after a while
        results = {
            "machine": machine(),
            "database": database.engine.dialect.name,
            "rounds": SMALL_ROUNDS + 1,
            "large": measure_large(environment),
            "readers": measure_readers(environment, folder),
        }
        database.close()
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
