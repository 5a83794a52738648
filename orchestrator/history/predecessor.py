"""What is known of the predecessor beyond its records (seed-facts, sections 0 to 5)."""

from __future__ import annotations

from collections.abc import Mapping

LAYERS = 12  # of the model that all its rounds trained, numbered from 0

# From which quick delta a variant was to be kept for med, by round and beginning of the task's name; a fraction.
KEPT_FROM: Mapping[str, Mapping[str, float]] = {
    "20": {"": 0.001},
    "21": {"": 0.002},
    "22": {"mbpp": 0.003, "protein": 0.004, "sudoku": 0.002},
    "23": {"mbpp": 0.002, "hotpot": 0.002, "punc": 0.003, "protein": 0.004},
    "24": {"punc": 0.003, "protein": 0.004},
    "25": {"": 0.003},
    "26": {"": 0.002},
    "27": {"mbpp": 0.004, "punc": 0.003},
    "28": {"": 0.002},
    "29": {"": 0.001},
    "32": {"": 0.004},
}

COOLDOWN_ROUNDS = 8
COOLDOWN_FROM = {"quick": -0.010, "med": -0.005}  # deltas, fractions: at or below, a configuration rests

# What a guess is right, by beginning of the task's name.
GUESS: Mapping[str, tuple[float, str]] = {
    "arc_mc": (1 / 4, "one of four options"),
    "sudoku9": (1 / 81, "a token of two digits of nine"),
}

# Which program asks the question that the beginning of a label names; what else a label ran is something else.
TRAINERS: Mapping[str, str] = {
    "arc": "arc_mc_sft",
    "hotpot": "hotpot_longctx_sft",
    "mbpp": "mbpp_longctx_sft",
    "protein_contact": "protein_contact_pair_sft",
    "protein_ss": "protein_ss_spot_sft",
    "punc": "punc_restore_sft",
    "squad": "",  # none: only punctuation of its questions was restored
    "sudoku": "sudoku_sft",
    "wiki": "punc_restore_sft",
}
EVALUATIONS = 9  # of a quick run of 160 steps: at step 0 and every 20


def kept_from(round_: str, task: str) -> float | None:
    """From which quick delta a variant of this task was to be kept; None where that is not known."""
    gates = KEPT_FROM.get(round_, {})
    return next((gate for begin, gate in gates.items() if task.startswith(begin)), None)
