from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from task_samples import Bytes, mbpp_row, write_jsonl

from model.tokenizers import get_tokenizer
from tasks import BuildError, Candidate, RowError, Split, build
from tasks.builtin.mbpp import Mbpp, MbppConfig
from tasks.rows import bind

QUESTION = (
    "Problem:\nWrite a function to add 7 to a number.\n\n"
    "Tests:\nassert add_7(1) == 8\nassert add_7(0) == 7\n\n"
)


def candidate(raw: dict[str, Any], **options: Any) -> Candidate:
    return Mbpp(MbppConfig(**options)).candidate(bind(Mbpp.columns, [raw], "test")[0])


def split(raw: dict[str, Any]) -> Split:
    return Mbpp(MbppConfig()).split_of(bind(Mbpp.columns, [raw], "test")[0])


def test_candidate__layout() -> None:
    after, slot, solution = candidate(mbpp_row(7)).prompt
    assert (after.text, slot.before, slot.after, solution.text) == (  # type: ignore[union-attr]
        QUESTION,
        "Notes:\n",
        "\n\n",
        "Python solution:",
    )
    assert candidate(mbpp_row(7), order="q_after").prompt == (slot, after, solution)


def test_candidate__answer_and_note_have_unix_lines() -> None:
    tests = ["assert add_7(1) == 8\r\n", "assert add_7(0) == 7"]
    made = candidate(mbpp_row(7, text="Add\r\n7.", test_list=tests))

    assert made.answer == "\ndef add_7(x):\n    return x + 7"
    assert made.note == "Problem: Add\n7.\nTests: assert add_7(1) == 8\n\nassert add_7(0) == 7"
    assert (made.id, made.choices) == ("7", None)


def test_candidate__code_keeps_its_indent() -> None:
    assert candidate(mbpp_row(7, code="\n    return x + 7\n\n")).answer == "\n    return x + 7"


@pytest.mark.parametrize(
    ("problem", "code"),
    [("text", "code"), ("prompt", "canonical_solution"), ("description", "completion")],
)
def test_candidate__column_names(problem: str, code: str) -> None:
    made = candidate({problem: "Add 7.", code: "x + 7"})

    assert made.prompt[0].text == "Problem:\nAdd 7.\n\n"  # type: ignore[union-attr]
    assert (made.answer, made.note) == ("\nx + 7", "Problem: Add 7.")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text": None}, "no_problem"),
        ({"text": ["a"]}, "problem_not_text"),
        ({"code": "\r\n"}, "no_code"),
        ({"test_list": "assert"}, "tests_not_text"),
        ({"test_list": [1]}, "tests_not_text"),
    ],
)
def test_candidate__drop_reasons(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        candidate(mbpp_row(7, **changes))

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1, 10, 511, 600), Split.REST),
        ((11, 510), Split.VAL),
        ((601, 974), Split.TRAIN),
    ],
)
def test_split_of__standard_parts(numbers: tuple[int, ...], expected: Split) -> None:
    assert {split(mbpp_row(number)) for number in numbers} == {expected}


@pytest.mark.parametrize(
    ("number", "part"),
    [("601", Split.TRAIN), (601.0, Split.TRAIN), ("601.0", Split.TRAIN), (" 0012", Split.VAL)],
)
def test_split_of__numbers_as_tables_have_them(number: Any, part: Split) -> None:
    assert split(mbpp_row(7, task_id=number)) is part


def test_split_of__other_numbering_by_hash() -> None:
    for number in ("HumanEval/1", 975, 0, True, None):
        assert split(mbpp_row(7, task_id=number)) is not Split.REST
    splits = [split(mbpp_row(7, task_id=f"HumanEval/{number}")) for number in range(100)]
    assert 5 < splits.count(Split.VAL) < 35
    assert splits.count(Split.REST) == 0


@pytest.mark.parametrize("order", ["q_after", "q_first"])
def test_build__real_file(shared_data: Callable[[str], Path], order: str) -> None:
    data = {"path": shared_data("mbpp/mbpp.jsonl")}
    options = {"kind": "mbpp", "data": data, "train": 320, "val": 80, "max_prompt_tokens": 3072}
    tokenizer = get_tokenizer("world")

    train, val, report = build(options | {"order": order}, tokenizer)

    assert {int(one.id) for one in train} <= set(range(601, 975))
    assert {int(one.id) for one in val} <= set(range(11, 511))
    assert report.train.prompt_tokens.min == report.val.prompt_tokens.max == 3072
    assert (report.train.leak, report.val.leak) == (0, 0)
    assert "\r" not in tokenizer.decode(val[0].answer.tolist())
    text = tokenizer.decode(val[0].prompt.tolist())
    assert text.startswith("Problem:\n" if order == "q_first" else "Notes:\n")
    assert text.endswith("\n\nPython solution:")


def test_build__real_file_is_smaller_than_the_default(shared_data: Callable[[str], Path]) -> None:
    with pytest.raises(BuildError) as caught:
        build({"kind": "mbpp", "data": {"path": shared_data("mbpp/mbpp.jsonl")}}, Bytes())

    assert str(caught.value) == (
        "mbpp: built 374 of 800 train examples and 200 of 200 val examples. "
        "train: 374 rows read, dropped: none. val: 200 rows read, dropped: none. "
        "To do: lower train to 374; give more data."
    )


def test_build__notes_are_quick(tmp_path: Path) -> None:
    rows = [mbpp_row(number, task_id=f"extra/{number}") for number in range(4000)]
    data = {"path": write_jsonl(tmp_path / "many.jsonl", rows)}
    tokenizer = Bytes()

    train, _, _ = build({"kind": "mbpp", "data": data, "train": 2500, "val": 100}, tokenizer)

    assert len(train) == 2500
    assert tokenizer.calls < 6 * 4000  # pieces of each row once, each note once
