"""A build report as text."""

import pytest

from orchestrator.terminal.build_report import report_lines
from worker.job import BuildReport

LENGTHS = {"min": 9, "p50": 9, "p90": 9, "max": 9}
SPLIT = {
    "wanted": 4,
    "rows_read": 5,
    "kept": 4,
    "dropped": {"prompt_too_long": 1},
    "prompt_tokens": LENGTHS,
    "answer_tokens": LENGTHS | {"min": 1, "p50": 2},
    "truncated": 0.5,
    "cut_answers": 0,
    "leak": 0.25,
}
VAL = {
    "n_tokens": 18,
    "symbols_per_answer": None,
    "majority_accuracy": 0.125,
    "constant_accuracy": 0.25,
    "uniform_accuracy": 0.0625,
    "symbol_pp": 5.555,
}


def lines(train: dict[str, float], val: dict[str, float]) -> list[str]:
    report = {"kind": "x", "tokenizer": "bytes", "source": f"sha256:{'0123456789abcdef' * 4}", "digest": "d"}
    return [*report_lines(BuildReport(**report, train=SPLIT | train, val=SPLIT | VAL | val))]


def test_report_lines() -> None:
    assert lines({}, {}) == [
        "data       sha256:0123456789ab",
        "train      4 of 5 rows read; dropped: 1 prompt_too_long",
        "val        4 of 5 rows read; dropped: 1 prompt_too_long",
        "prompts    9 tokens in train, 9 in val",
        "answers    1-9 (median 2, 90 % up to 9) tokens in train, 1-9 (median 2, 90 % up to 9) in val",
        "truncated  50.0% of the prompts in train, 50.0% in val",
        "leak       answer in the prompt: 25.0% in train, 25.0% in val",
        "chance     majority answer 12.50%, best constant answer 25.00%, uniform guess 6.25%",
        "symbol     18 answer tokens in val, one is 5.55 pp",
    ]


@pytest.mark.parametrize(
    ("train", "val", "told"),
    [
        ({"cut_answers": 1}, {}, "; 1 answer cut"),
        ({"cut_answers": 1}, {"cut_answers": 2}, "; 3 answers cut"),
        ({}, {"lost_answers": 0.25}, ", the answer with it: 0.0% and 25.0%"),
        ({"lost_answers": 0.5, "cut_answers": 2}, {}, ", the answer with it: 50.0% and 0.0%; 2 answers cut"),
    ],
)
def test_report_lines__what_was_cut(train: dict[str, float], val: dict[str, float], told: str) -> None:
    assert lines(train, val)[5] == f"truncated  50.0% of the prompts in train, 50.0% in val{told}"
