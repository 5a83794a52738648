"""What is known of the predecessor beyond its records: its rules, its programs, what a guess at its tasks gets.

What comes of that stands in docs/audit-of-the-predecessor.md. None of it holds of own records, whatever their rounds
and tasks are called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

LAYERS = 12  # of the model that all its rounds trained, numbered from 0

# Words of its records that stand in none of fsq's.
SKIP_REUSE = "skip_reuse"  # status of a run: another's numbers, taken over
FLAGGED = "flagged"  # status of a decision: far worse than the baseline at med
PROBE = "probe"  # stage: a few steps that try which batch size fits

# Its modes, which fsq's records have as well; the first also named a baseline.
NO_FS = "no_fs"
PROMPT_FS = "prompt_fs"

ARC_MC = "arc_mc"  # the task, and the family, of ARC's questions with one of four options as the answer


class Gate(NamedTuple):
    """Which variants of a task were to be kept for med."""

    delta: float  # from this quick delta on, a fraction
    best: float | None = math.inf  # at most so many, the best; None: it is not known whether all went on


# By round and beginning of the task's name. Rounds 30 and 31 had one stage, and round 41 quick runs only.
GATES: Mapping[str, Mapping[str, Gate]] = {
    "20": {"": Gate(0.001)},
    "21": {"": Gate(0.002)},
    "22": {"mbpp": Gate(0.003), "protein": Gate(0.004), "sudoku": Gate(0.002)},
    "23": {"mbpp": Gate(0.002), "hotpot": Gate(0.002), "punc": Gate(0.003), "protein": Gate(0.004)},
    "24": {"punc": Gate(0.003), "protein": Gate(0.004)},
    "25": {"": Gate(0.003)},
    "26": {"": Gate(0.002)},
    "27": {"mbpp": Gate(0.004), "punc": Gate(0.003)},
    "28": {"": Gate(0.002)},
    "29": {"": Gate(0.001)},
    "32": {"": Gate(0.004)},
    "33": {"": Gate(0.001)},
    "34": {"": Gate(0.001)},
    "35": {"": Gate(0.003, best=1)},
    "36": {"": Gate(0.005, best=None)},  # rounds 36 and 37 add tasks to those of 35
    "37": {"": Gate(0.003, best=None)},
    "38": {"": Gate(0.010)},
    "39": {"": Gate(0.005, best=2)},
    "40": {"punc": Gate(0.005, best=2), "hotpot": Gate(0.003, best=1), "mbpp": Gate(0.003, best=1)},
    "42": {
        "punc_hotpot": Gate(0.005, best=2),
        "punc_mbpp": Gate(0.008, best=2),
        "punc_squad": Gate(0.005, best=2),
        "mbpp_longctx": Gate(0.004, best=2),
    },
}

POLICY_FROM = 77  # from this round on, one policy for all tasks of a round, with cooldowns
COOLDOWN_ROUNDS = 8
COOLDOWN_FROM = {"quick": -0.010, "med": -0.005}  # deltas, fractions: at or below, a configuration rests


class Guess(NamedTuple):
    """How often an answer that nothing was learned for is right."""

    share: float
    answer: str
    is_best: bool = False  # `share` is of the best of a run's evaluations already


# By a pattern of the beginning of the task's name; the first that fits.
GUESSES: Mapping[str, Guess] = {
    ARC_MC: Guess(1 / 4, "a guess (one of four options)"),
    # a board of 16 digits is 8 tokens
    "sudoku4": Guess(1 / 16, "a guess (a token of two digits of four)"),
    "sudoku9": Guess(1 / 81, "a guess (a token of two digits of nine)"),
    # half of the 32 bits are 1, and they are 16 tokens
    "protein_contact.*balanced": Guess(1 / 4, "a guess (a token of two bits)"),
    # rounds 77 to 569, whose evaluations had the same batches
    "protein_contact_seed": Guess(124 / 128, "a constant answer (no contact anywhere)", is_best=True),
    "protein_ss_seed": Guess(
        0.2968304843304843, "a constant answer (one class for all residues)", is_best=True
    ),
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


def gate_of(round_: str, task: str) -> Gate | None:
    """Which variants of this task were to be kept; None where that is not known."""
    gates = GATES.get(round_, {})
    return next((gate for begin, gate in gates.items() if task.startswith(begin)), None)


def has_policy(round_: str) -> bool:
    """Whether the round's thresholds were those of all its tasks, and configurations could rest."""
    return round_.isdecimal() and int(round_) >= POLICY_FROM


def guess_of(task: str) -> Guess | None:
    """How often a guess is right on this task; None where that is not known."""
    return next((guess for pattern, guess in GUESSES.items() if re.match(pattern, task)), None)
