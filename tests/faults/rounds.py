"""The rounds of the fault tests, and what they leave when nothing happens to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.faults.harness import Night, Undisturbed

EVALUATIONS = 10  # of a quick job; a med job repeats them and adds two
MIDDLE = 3  # after so many of them a fault strikes


def write_round(folder: Path, **changes: Any) -> Path:
    """Four jobs, one after another, of less than a second on one core: to be hit in the MIDDLE."""
    data: dict[str, Any] = {
        "round": "night",
        "model": {"random": {"layers": 3, "dim": 64, "vocab": 256}, "tokenizer": "bytes", "dtype": "float32"},
        "stages": [
            {"name": "quick", "steps": 2 * EVALUATIONS, "eval_every": 2},
            {"name": "med", "steps": 2 * EVALUATIONS + 4, "eval_every": 2},
        ],
        "optimizer": {"lr": 1e-3},
        "prune": {"min_delta": -1.0},  # everything is promoted
        "tasks": {"s4": {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}},
        "variants": {"l1": {"layer_start": 1, "norm": False}},
    }
    data |= changes
    path = folder / f"{data['round']}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def write_data_round(folder: Path, data: dict[str, Any]) -> Path:
    """Two jobs on the rows that `write_rows` writes, wherever they come from."""
    sizes = {"train": 12, "val": 6, "batch_size": 4, "max_prompt_tokens": 200}
    stages = [{"name": "quick", "steps": 4, "eval_every": 2}]
    return write_round(
        folder, round="data", stages=stages, tasks={"code": {"kind": "mbpp", "data": data} | sizes}
    )


def write_rows(path: Path) -> None:
    """A file of 25 kB in MBPP's layout."""
    rows = [
        {
            "text": f"Add {number} to x.",
            "code": f"x + {number}",
            "task_id": number,
            "test_list": [f"f({number})"],
            "notes": "n" * 600,
        }
        for number in (*range(601, 625), *range(11, 20))
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def undisturbed(folder: Path, *paths: Path) -> dict[str, Undisturbed]:
    """Runs rounds in a home of their own and lets them be; what they leave, by name."""
    night = Night(folder)
    try:
        names = [night.submit(path) for path in paths]
        night.work().finish()
        return {name: Undisturbed(night.records(name), night.files()) for name in names}
    finally:
        night.end()
