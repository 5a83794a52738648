"""What it brings that a training process keeps its memory from step to step (`worker.process_memory`).

    python benchmarks/kept_memory.py [--turns 4] [-o benchmarks/results/kept_memory.json]

The same passes of the kernel and the same training steps, in processes of their own that take turns, each turn in the
other order: with the settings of a training process ("kept"), with the system's own ("given back"), and with those of
one whose memory is limited ("spared"). The fastest counts; pages are those that the system handed out in the last of
them, resident is the most that the process had.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import machine
from step import ON, phases_of
from turns import in_turns
from wkv7_cpu import HEAD_SIZE, SHAPES, forward_backward, make_inputs

from worker.child.reproducible import be_reproducible
from worker.process import environment
from worker.process_memory import KEEPING, SPARING

SECONDS = 8.0  # of repetitions


def works() -> dict[str, Callable[[], Callable[[], None]]]:
    """What is measured: makes its inputs, and returns what to repeat."""

    def kernel(shape: tuple[int, int, int]) -> Callable[[], None]:
        return partial(forward_backward, make_inputs(*shape, HEAD_SIZE), "compiled")

    def step(name: str) -> Callable[[], None]:
        return phases_of(name).step

    kernels: dict[str, Callable[[], Callable[[], None]]] = {
        f"kernel {shape}": partial(kernel, shape) for shape in SHAPES
    }
    return kernels | {f"step {name}": partial(step, name) for name in ON["cpu"]}


def pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def measured(name: str) -> dict[str, float]:
    """Of one work, in this process."""
    be_reproducible()
    run = works()[name]()
    fastest, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        before, began = pages(), time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - began)
        handed_out = pages() - before
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "milliseconds": round(1000 * fastest, 2),
        "pages": handed_out,
        "MiB resident": round(most / 1024),
    }


def compared(name: str, turns: int) -> dict[str, Any]:
    own = {key: value for key, value in environment().items() if key not in KEEPING | SPARING}
    environments = {"kept": own | KEEPING, "given back": own, "spared": own | SPARING}
    found: dict[str, Any] = {}
    for how, one in in_turns(__file__, name, environments, turns):
        if how not in found or one["milliseconds"] < found[how]["milliseconds"]:
            found[how] = one
    for how in ("given back", "spared"):
        found[how]["times as long"] = round(found[how]["milliseconds"] / found["kept"]["milliseconds"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/kept_memory.json"))
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure)))
        return
    found: dict[str, Any] = {"machine": machine(torch=torch.__version__)}
    for name in works():
        found[name] = compared(name, arguments.turns)
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
