from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from task_samples import Bytes, ai2_row, arc_row

from tasks import Columns, Row, RowError, build
from tasks.builtin.arc import Arc, ArcConfig
from tasks.rows import bind


def rows(*raw: dict[str, Any]) -> list[Row]:
    columns: Columns = Arc.columns
    return bind(columns, raw, "test")


def prompt(raw: dict[str, Any], **options: Any) -> str:
    candidate = Arc(ArcConfig(**options)).candidate(rows(raw)[0])
    return "".join(part.text for part in candidate.prompt)  # type: ignore[union-attr]


OPTIONS = "Options:\nA. 7 plus 0\nB. 7 plus 1\nC. 7 plus 2\nD. 7 plus 3\n\n"
QUESTION = "Question:\nWhich number is 7?\n\n"


@pytest.mark.parametrize("row", [arc_row(7), ai2_row(7)])
def test_candidate__layout_of_both_file_formats(row: dict[str, Any]) -> None:
    assert prompt(row) == OPTIONS + QUESTION + "Answer: "
    assert prompt(row, order="q_first") == QUESTION + OPTIONS + "Answer: "


@pytest.mark.parametrize("make", [arc_row, ai2_row])
@pytest.mark.parametrize(
    ("labels", "answer"), [("ABCD", "D"), ("1234", "4"), ("ABC", "B"), ("ABCDE", "C"), ("AB", "B")]
)
def test_candidate__answer_is_one_label(
    make: Callable[..., dict[str, Any]], labels: str, answer: str
) -> None:
    candidate = Arc(ArcConfig()).candidate(rows(make(7, labels))[0])

    assert (candidate.answer, candidate.choices, candidate.id) == (answer, len(labels), "q7")


def test_candidate__options_sorted_by_label() -> None:
    shuffled = arc_row(7, choices={"text": ["two", "one", "three"], "label": ["2", "1", "3"]}, answerKey="2")

    assert prompt(shuffled).startswith("Options:\n1. one\n2. two\n3. three\n\n")


def test_candidate__space_around_key_and_options_goes() -> None:
    spaced = {"text": [" one", "two\n"], "label": ["1", "2"]}
    assert prompt(arc_row(7, choices=spaced, answerKey=" 2\n")).startswith("Options:\n1. one\n2. two\n\n")


def test_candidate__another_question_or_other_options_are_another_example() -> None:
    raw = [arc_row(7), arc_row(7, question="Which is not?"), arc_row(7, choices=arc_row(8)["choices"])]
    assert len({Arc(ArcConfig()).candidate(row).content for row in rows(*raw)}) == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": None}, "no_question"),
        ({"question": "  "}, "no_question"),
        ({"question": 7}, "question_not_text"),
        ({"question": {"choices": []}}, "no_stem"),
        ({"question": {"stem": "x"}}, "no_options"),
        ({"question": {"stem": "x", "choices": [{"label": "A"}, {"text": "y"}]}}, "bad_options"),
        ({"choices": None}, "no_options"),
        ({"choices": {"text": ["x"], "label": ["A", "B"]}}, "no_options"),
        ({"choices": {"text": ["x"], "label": ["A"]}}, "bad_options"),
        ({"choices": {"text": ["x", "y"], "label": ["A", "A"]}}, "bad_options"),
        ({"choices": {"text": ["x", "y"], "label": ["A", "BC"]}}, "bad_options"),
        ({"choices": {"text": ["x", 3], "label": ["A", "B"]}}, "bad_options"),
        ({"answerKey": None}, "no_key"),
        ({"answerKey": "E"}, "key_not_an_option"),
    ],
)
def test_candidate__drop_reasons(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        prompt(arc_row(7, **changes))

    assert caught.value.reason == reason


def test_build__real_files(shared_data: Callable[[str], Path], tokenizer: Bytes) -> None:
    data = {
        "train": shared_data("arc/arc_challenge_train.jsonl"),
        "val": shared_data("arc/arc_challenge_dev_ai2.jsonl"),
    }

    train, val, report = build({"kind": "arc", "data": data, "max_prompt_tokens": 700}, tokenizer)

    assert (len(train), len(val)) == (1000, 200)
    assert report.val.n_tokens == 200
    assert report.val.uniform_accuracy == pytest.approx(0.25, abs=0.002)
    for example in val:
        text = tokenizer.decode(example.prompt.tolist())
        assert text.startswith("Options:\nA. ")
        assert text.endswith("\n\nAnswer: ")
        assert f"{chr(example.answer[0])}. " in text
