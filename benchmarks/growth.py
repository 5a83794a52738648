"""How cost grows: the kernel with tokens and batch, a training step with layers, the queue with jobs.

    python benchmarks/growth.py [--repeat 3] [-o benchmarks/results/growth.json] [--chart docs/images/growth.svg]

Each point is the fastest of the repetitions, each slope that of a straight line through the logarithms: 1 is
proportional, 0 is constant. Databases are SQLite; a round of them has up to 1,000 jobs, in one chain.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import altair
import torch
from job_queue import take_next
from machine import machine
from service import SUDOKU, resolved, result, round_data
from sqlalchemy import insert
from step import Phases, examples, job
from training_environment import as_in_training
from wkv7_cpu import forward_backward, make_inputs

from db import queue
from db.session import Database, open_current
from db.tables import AT_ONCE, Decision, Job, Round, Worker
from model import RWKV7, ModelShape, default_backend, random_state_dict
from orchestrator import engine
from orchestrator.views import lookup, progress
from orchestrator.views.lookup import Slice
from worker.child.run import start_run

TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 2, 4, 8, 16, 32)
LAYERS = (2, 3, 6, 12, 24)
JOBS = (10, 100, 1_000, 10_000, 100_000)
ROUND_SIZE = 1_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def fastest(run: Callable[[], Any], repeat: int) -> float:
    """Milliseconds."""
    seconds = math.inf
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        seconds = min(seconds, time.perf_counter() - began)
    return round(1000 * seconds, 3)


def slope(points: dict[int, float]) -> float:
    """Of milliseconds over size, both as logarithms, by least squares."""
    pairs = [(math.log(size), math.log(cost)) for size, cost in points.items()]
    mean_x, mean_y = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    top = sum((x - mean_x) * (y - mean_y) for x, y in pairs)
    return round(top / sum((x - mean_x) ** 2 for x, _ in pairs), 2)


def kernel(shape: tuple[int, int, int], repeat: int) -> float:
    inputs = make_inputs(*shape, 64)
    return fastest(lambda: forward_backward(inputs, default_backend()), repeat)


def step(layers: int, repeat: int) -> float:
    spec = job(layers, 128, 512, 8, "float32")
    weights = random_state_dict(ModelShape.random(layers, 128, 512), 0)
    phases = Phases(start_run(spec, RWKV7.from_state_dict(weights)), spec, examples(512, 8, 112, 16))
    phases.step()
    return fastest(phases.step, repeat)


def filled(folder: Path, jobs: int) -> Database:
    """A database in which all but one job of each round is done."""
    database = open_current(f"sqlite:///{folder / f'{jobs}.db'}")
    variants = {"grid": {"layer_start": [1], "alpha_init": [round(-9 + 0.01 * n, 2) for n in range(998)]}}
    small = {"grid": {"layer_start": [1], "alpha_init": [round(-9 + n, 2) for n in range(8)]}}
    size = min(jobs, ROUND_SIZE)
    stages = [{"name": "quick", "steps": 4, "eval_every": 2}]
    data = round_data(
        "r", stages=stages, tasks={"t": dict(SUDOKU)}, variants=small if size == JOBS[0] else variants
    )
    wanted = resolved(folder, data)
    keys = list(wanted.largest_plan())[:size]
    specs = (wanted.job(key) for key in keys)
    told = [(spec.fingerprint, spec.model_dump(mode="json")) for spec in specs]
    done = {"state": "done", "outcome": "ok", "result": result(0.2).model_dump(mode="json")}
    open_ = {"state": "queued", "outcome": None, "result": None}
    common = {"attempts": 1, "fencing_token": 1, "not_before": AT_ONCE, "created_at": NOW}
    common |= {"started_at": NOW, "finished_at": NOW}
    with database.write() as session:
        session.add(Worker(host="h", pid=1, device="cpu", device_lock="l", started_at=NOW, seen_at=NOW))
        for number in range(max(1, jobs // ROUND_SIZE)):
            row = Round(
                name=f"r{number}",
                digest="",
                source="",
                spec=wanted.spec.model_dump(mode="json"),
                facts=wanted.facts.model_dump(mode="json"),
                created_at=NOW,
            )
            session.add(row)
            session.flush()
            rows = [
                key._asdict()
                | common
                | (open_ if key == keys[-1] else done)
                | {"round_id": row.id, "fingerprint": f"{number} {fingerprint}", "payload": payload}
                for key, (fingerprint, payload) in zip(keys, told, strict=True)
            ]
            session.execute(insert(Job), rows)
            decided = {
                "round_id": row.id,
                "created_at": NOW,
                "decision": "pruned",
                "reason": "",
                "d_acc": 0.0,
            }
            pruned = [key._asdict() | decided for key in keys[1:-1]]
            session.execute(insert(Decision), pruned)
    return database


def queue_costs(folder: Path, jobs: int, repeat: int) -> dict[str, float]:
    database = filled(folder, jobs)

    def undone(work: Callable[[Any], Any]) -> Callable[[], None]:
        def run() -> None:
            with database.write() as session:
                work(session)
                session.rollback()

        return run

    def claim(session: Any) -> Any:
        return take_next(session, 1, NOW)

    def end(session: Any) -> None:
        lease = claim(session)
        ended = result(0.2).model_dump(mode="json")
        queue.complete(session, lease, now=NOW, outcome="ok", reason=None, result=ended)
        engine.advance_job(session, lease.job_id, now=NOW)

    def look(session: Any) -> None:
        progress.round_(session, "r0")
        lookup.jobs(session, "r0", Slice(limit=50))

    costs = {
        "claim": fastest(undone(claim), repeat),
        "claim, end and what follows": fastest(undone(end), repeat),
        "a round's page": fastest(undone(look), repeat),
        "all rounds": fastest(undone(lambda session: lookup.rounds(session, Slice(limit=50))), repeat),
    }
    database.close()
    return costs


def measure(folder: Path, repeat: int) -> dict[str, dict[int, float]]:
    torch.set_num_threads(os.cpu_count() or 1)
    found: dict[str, dict[int, float]] = {
        "kernel, tokens (batch 2, 4 heads)": {T: kernel((2, T, 4), repeat) for T in TOKENS},
        "kernel, batch (512 tokens, 4 heads)": {B: kernel((B, 512, 4), repeat) for B in BATCHES},
    }
    torch.set_num_threads(1)
    found["step, layers (width 128, 8 x 128 tokens)"] = {L: step(L, repeat) for L in LAYERS}
    of_jobs = {jobs: queue_costs(folder, jobs, repeat) for jobs in JOBS}
    for name in of_jobs[JOBS[0]]:
        found[f"queue, jobs: {name}"] = {jobs: costs[name] for jobs, costs in of_jobs.items()}
    return found


def chart(found: dict[str, dict[int, float]], path: Path) -> None:
    """One panel for each cost, both axes logarithmic."""
    panels = []
    for name, points in found.items():
        rows = [{"size": size, "ms": cost} for size, cost in points.items()]
        scale = altair.Scale(type="log")
        panels.append(
            altair.Chart(
                altair.Data(values=rows), title=f"{name}; slope {slope(points)}", width=260, height=150
            )
            .mark_line(point=True)
            .encode(x=altair.X("size:Q", scale=scale), y=altair.Y("ms:Q", scale=scale, title="milliseconds"))
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    altair.concat(*panels, columns=2).save(path)


def main() -> None:
    as_in_training()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/growth.json"))
    parser.add_argument("--chart", type=Path, default=Path("docs/images/growth.svg"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsq-growth-") as folder:
        found = measure(Path(folder), arguments.repeat)
    stored = {
        "machine": machine(torch=torch.__version__),
        "milliseconds": found,
        "slopes": {name: slope(points) for name, points in found.items()},
    }
    print(json.dumps(stored, indent=1))
    arguments.output.write_text(json.dumps(stored, indent=1) + "\n")
    chart(found, arguments.chart)


if __name__ == "__main__":
    main()
