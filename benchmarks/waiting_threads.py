"""What it brings that the threads of a training process spin for a moment while they wait (decision 2).

    python benchmarks/waiting_threads.py [--turns 3] [-o benchmarks/results/waiting_threads.json]

The same training steps of models wide enough for several threads, in processes of their own that take turns: with
threads that sleep at once, that spin for a moment as in a training process, and as OpenMP has it ("spin"). Alone, and
beside another process that needs a core all the time. The fastest of the turns' medians counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine
from step import phases_of
from turns import in_turns

from worker.child.reproducible import be_reproducible
from worker.process import OF_THREADS, environment

STEPS = ("deep", "small")
SECONDS = 8.0  # of steps in a turn


def measured(name: str) -> float:
    """Milliseconds of a step, the median, in this process."""
    be_reproducible()
    step = phases_of(name).step
    step()
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        began = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


@contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def compared(name: str, turns: int) -> dict[str, float]:
    own = {key: value for key, value in environment().items() if key not in OF_THREADS}
    environments = {
        "sleep": own | {"OMP_WAIT_POLICY": "PASSIVE"},
        "a moment": environment(),
        "spin": own,
    }
    found: dict[str, float] = {}
    for how, milliseconds in in_turns(__file__, name, environments, turns):
        found[how] = min(found.get(how, float("inf")), round(milliseconds, 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/waiting_threads.json"))
    arguments = parser.parse_args()
    if arguments.measure:
        print(measured(arguments.measure))
        return
    if given := [name for name in OF_THREADS if name in os.environ]:
        parser.error(f"{' and '.join(given)} set: nothing to compare")
    steps: dict[str, Any] = {}
    for name in STEPS:
        steps[name] = {"alone": compared(name, arguments.turns)}
        with busy_process():
            steps[name]["beside another"] = compared(name, arguments.turns)
        print(json.dumps({name: steps[name]}, indent=1), flush=True)
    found = {"machine": machine(torch=torch.__version__), "milliseconds of a step": steps}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
