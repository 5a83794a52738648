"""How long it takes to start: commands, a round's first job, the next job, and the first build of the CPU kernel.

    python benchmarks/start.py [-o benchmarks/results/start.json]

Commands and the build: the median of five, in seconds, the build in processor time. `fsq run`, three times in an
empty home: seconds from the command to the end of the first job, which is four steps, and milliseconds from the end
of one job's log to the opening of the next one's. Imports are warm: everything has been started once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from machine import machine

from model.kernels import build

FSQ = str(Path(sys.executable).with_name("fsq"))
ROUND = {
    "round": "start",
    "model": {"random": {"layers": 3, "dim": 64, "vocab": 256}, "tokenizer": "bytes", "dtype": "float32"},
    "stages": [{"name": "quick", "steps": 4, "eval_every": 2}, {"name": "med", "steps": 8, "eval_every": 2}],
    "optimizer": {"lr": 1e-3},
    "prune": {"min_delta": 0.0},
    "tasks": {"s4": {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}},
    "variants": {"l1": {"layer_start": 1}, "l2": {"layer_start": 2}},
}


def seconds(command: Sequence[str], home: Path) -> float:
    """Of one start, by the clock."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"FSQ_HOME": str(home)})
    return time.perf_counter() - began


def processor_seconds(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(command, check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def opened(log: Path) -> float:
    """When a file was made, which Python does not tell on Linux."""
    return float(subprocess.run(["stat", "-c", "%.9W", log], check=True, capture_output=True).stdout)  # noqa: S607


def a_round(folder: Path) -> dict[str, Any]:
    """One `fsq run` in an empty home."""
    path, home = folder / "round.yaml", folder / "home"
    path.write_text(yaml.safe_dump(ROUND))
    began = time.time()
    seconds([FSQ, "run", str(path)], home)
    logs = sorted((opened(log), log.stat().st_mtime) for log in home.rglob("log.txt"))
    gaps = [1000 * (start - end) for (_, end), (start, _) in pairwise(logs)]
    return {
        "first job ended after seconds": round(logs[0][1] - began, 2),
        "to the next job ms": list(map(round, gaps)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/start.json"))
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(load_average=os.getloadavg()[0])}
    with tempfile.TemporaryDirectory(prefix="fsq-start-") as name:
        folder = Path(name)
        rounds = []
        for number in range(4):
            (folder / str(number)).mkdir()
            rounds.append(a_round(folder / str(number)))
        home = folder / "0" / "home"
        commands = {
            "fsq --help": [FSQ, "--help"],
            "fsq status": [FSQ, "status"],
            "fsq status start": [FSQ, "status", "start"],
            "fsq workers": [FSQ, "workers"],
            "import sqlalchemy.orm": [sys.executable, "-c", "import sqlalchemy.orm"],
            "import typer, pydantic": [sys.executable, "-c", "import typer, pydantic"],
        }
        found["seconds"] = {
            shown: round(median(seconds(command, home) for _ in range(5)), 2)
            for shown, command in commands.items()
        }
        found["fsq run"] = rounds[1:]
        source = str(Path(build.__file__).with_name("wkv7.c"))
        built = ["-DN=64", source, "-o", str(folder / "x.so")]
        more = ["-O3" if flag == "-O2" else flag for flag in build.FLAGS]
        found["processor seconds to build the CPU kernel"] = {
            shown: round(median(processor_seconds(["cc", *flags, *built]) for _ in range(5)), 2)
            for shown, flags in (("as it is built", build.FLAGS), ("at -O3", more))
        }
    print(json.dumps(found, indent=1))
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
