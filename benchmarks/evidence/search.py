"""One real search with the tiny model, by each protocol: what it decides, and what it spends.

    python benchmarks/evidence/search.py [-o benchmarks/results/evidence_search.json]

The model and the tasks are those of `curves.py`: a small RWKV-7 that knows sudokus with four blanks learns six, with
real Future-Seed variants, two that change nothing, and the control arm, which is the baseline under another seed.
Every protocol is a round of its own, run by `fsq run`; what two of them need is trained once, and counts for both.
Steps are those of a round alone, continued from stage to stage. The predecessor's are read off the first round: `med`
from scratch, compared with the quick baseline, no-ops trained.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from curves import BEFORE, LAYERS, TASK, VOCABULARY, WIDTH, job, trained
from safetensors.torch import save_file

from model import RWKV7, ModelShape, random_state_dict

FSQ = Path(sys.executable).with_name("fsq")
QUICK, MED, CONFIRM = "quick", "med", "confirm"
STEPS = {QUICK: 80, MED: 160, CONFIRM: 160}
MIN_DELTA = 0.001
VARIANTS = {
    "scalar_l1": {"layer_start": 1},
    "scalar_l2": {"layer_start": 2},
    "trainable_l1": {"layer_start": 1, "alpha_lr": 1.0e-2},
    "head_l1": {"gate": "head", "layer_start": 1, "alpha_lr": 1.0e-2},
    "strong_l1": {"layer_start": 1, "alpha_init": 0.0},
    "weak_l3": {"layer_start": 3, "alpha_init": -3.0},
    "scalar_l10": {"layer_start": 10},
    "scalar_l12": {"layer_start": 12},
}
NO_OPS = ("scalar_l10", "scalar_l12")
PROTOCOLS: dict[str, tuple[dict[str, Any], tuple[str, ...], int]] = {  # rule, stages that select, fresh seeds
    "threshold, matched baselines": ({"rule": "threshold"}, (QUICK, MED), 0),
    "threshold, then confirmed": ({"rule": "threshold"}, (QUICK, MED), 3),
    "evidence, then confirmed": ({"rule": "evidence", "max_seeds": 2}, (QUICK, MED), 3),
    "successive halving": ({"rule": "halving", "eta": 3}, (QUICK, MED), 0),
    "the best of quick, then confirmed": ({"rule": "top_k", "keep": 1}, (QUICK,), 3),
    "the same, from +1 pp on": ({"rule": "top_k", "keep": 1, "min_delta": 0.01}, (QUICK,), 3),
}


def checkpoint(folder: Path) -> Path:
    """The model that knows sudokus with four blanks."""
    shape = ModelShape.random(LAYERS, WIDTH, VOCABULARY)
    model = RWKV7.from_state_dict(random_state_dict(shape, 0), device="cpu")
    trained(job(BEFORE, 400, 3e-3, 0), model)
    path = folder / "before.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def round_of(
    name: str, path: Path, rule: dict[str, Any], selecting: tuple[str, ...], fresh: int
) -> dict[str, Any]:
    stages: list[dict[str, Any]] = [
        {"name": stage, "steps": STEPS[stage], "eval_every": 20} for stage in selecting
    ]
    if fresh:
        confirm = {"seeds": fresh}
        stages.append({"name": CONFIRM, "steps": STEPS[CONFIRM], "eval_every": 20, "confirm": confirm})
    return {
        "round": name,
        "model": {"checkpoint": str(path), "tokenizer": "bytes", "dtype": "float32"},
        "stages": stages,
        "prune": {"min_delta": MIN_DELTA} | rule,
        "control": "aa",
        "optimizer": {"lr": 3.0e-4},
        "tasks": {"six_blanks": TASK},
        "variants": VARIANTS,
    }


def records(home: Path, round_: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs a round to its end and exports it."""
    environment = os.environ | {"FSQ_HOME": str(home)}
    file = home / f"{round_['round']}.yaml"
    file.write_text(yaml.safe_dump(round_))
    subprocess.run([FSQ, "run", file], env=environment, check=True, stdout=subprocess.DEVNULL)
    exported = subprocess.run(
        [FSQ, "export", round_["round"]], env=environment, check=True, capture_output=True, text=True
    ).stdout
    return [json.loads(line) for line in exported.splitlines()]


def judged(lines: list[dict[str, Any]], last: str) -> dict[str, Any]:
    decisions = [line for line in lines if line["stage"] == "decision"]
    longest: Counter[tuple[str, int, bool]] = Counter()
    for line in lines:
        if line["stage"] != "decision":
            arm = line["config"], line["seed"], line["stage"] == CONFIRM
            longest[arm] = max(longest[arm], line["steps"] or 0)
    return {
        "steps": longest.total(),
        "decisions": {
            f"{line['config']} {line['decided_stage']}": [line["status"], line["d_acc"], line["d_acc_ci"]]
            for line in decisions
        },
        "accepted": sorted(
            line["config"]
            for line in decisions
            if line["decided_stage"] == last and line["status"] in ("promoted", "confirmed")
        ),
    }


def as_the_predecessor(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What it would have made of the same runs: `med` from scratch, against the quick baseline; no-ops trained."""
    scores = {
        (line["stage"], line["config"]): line["best_val_tok_acc"]
        for line in lines
        if line["stage"] != "decision"
    }
    baseline = scores[QUICK, "baseline"]
    promoted = [
        name for name in VARIANTS if name not in NO_OPS and scores[QUICK, name] - baseline >= MIN_DELTA
    ]
    return {
        "steps": STEPS[QUICK] * (1 + len(VARIANTS)) + STEPS[MED] * len(promoted),
        "accepted": sorted(name for name in promoted if scores[MED, name] - baseline >= MIN_DELTA),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    output = Path(__file__).parents[1] / "results" / "evidence_search.json"
    parser.add_argument("-o", "--output", type=Path, default=output)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        path = checkpoint(home)
        for number, (name, (rule, selecting, fresh)) in enumerate(PROTOCOLS.items()):
            lines = records(home, round_of(f"search{number}", path, rule, selecting, fresh))
            if number == 0:
                found["threshold, as the predecessor ran it"] = as_the_predecessor(lines)
            found[name] = judged(lines, CONFIRM if fresh else selecting[-1])
            print(name, json.dumps(found[name], indent=1), flush=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
