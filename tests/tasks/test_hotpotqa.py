from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_samples import Bytes, hotpot_row, write_jsonl

from tasks import Candidate, Cut, Example, Part, RowError, build
from tasks.builtin.hotpotqa import HotpotQA, HotpotQAConfig
from tasks.rows import bind

QUESTION = "Question:\nWhich town of district 6 is the largest?\n\n"


def candidate(raw: dict[str, Any], **options: Any) -> Candidate:
    return HotpotQA(HotpotQAConfig(**options)).candidate(bind(HotpotQA.columns, [raw], "test")[0])


def test_candidate__layout() -> None:
    made = candidate(hotpot_row(6))
    context = "\n\n".join(f"Town 6.{n}: Town 6.{n} is a town. It has 6 houses." for n in range(4))

    told = (Part("Context:\n"), Part(context, cut=Cut.LEFT), Part("\n\n"))
    assert made.prompt == (*told, Part(QUESTION), Part("Answer:"))
    assert candidate(hotpot_row(6), order="q_first").prompt == (Part(QUESTION), *told, Part("Answer:"))
    assert (made.id, made.answer, made.choices, made.note) == ("h6", " Town 6.2", None, None)


def test_candidate__a_question_is_one_example_whatever_its_context() -> None:
    one, elsewhere = candidate(hotpot_row(6)), candidate(hotpot_row(6, context=hotpot_row(7)["context"]))
    assert one.content == elsewhere.content != candidate(hotpot_row(7)).content


def test_candidate__original_layout_is_read_alike() -> None:
    row = hotpot_row(6)
    pairs = [list(pair) for pair in zip(*row["context"].values(), strict=True)]

    assert candidate({"_id": "h6", **{k: v for k, v in row.items() if k != "id"}, "context": pairs}) == (
        candidate(row)
    )


def test_candidate__line_ends_go_and_empty_paragraphs_too() -> None:
    context = {"title": ["A\n", "B"], "sentences": [["One.\n", " Two\r\nthree."], []]}

    made = candidate(hotpot_row(1, question="Who\nis it? ", context=context))

    assert [part.text for part in made.prompt if isinstance(part, Part)] == [
        "Context:\n",
        "A: One. Two three.",
        "\n\n",
        "Question:\nWho is it?\n\n",
        "Answer:",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": None}, "no_question"),
        ({"answer": "  "}, "no_answer"),
        ({"answer": 12}, "answer_not_text"),
        ({"context": None}, "no_context"),
        ({"context": {"title": [], "sentences": []}}, "no_context"),
        ({"context": {"title": ["A"], "sentences": [[" "]]}}, "no_context"),
        ({"context": {"title": ["A", "B"], "sentences": [["one"]]}}, "bad_context"),
        ({"context": [["A", "not a list"]]}, "bad_context"),
        ({"context": [["A", ["one", None]]]}, "bad_context"),
        ({"context": "text"}, "bad_context"),
    ],
)
def test_candidate__drop_reasons(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        candidate(hotpot_row(1, **changes))

    assert caught.value.reason == reason


@given(st.sampled_from(["q_first", "q_after"]), st.integers(100, 400))
def test_build__truncation_leaves_the_question_and_the_end_of_the_context(
    tmp_path_factory: pytest.TempPathFactory, order: str, limit: int
) -> None:
    path = write_jsonl(tmp_path_factory.mktemp("hotpot") / "a.jsonl", [hotpot_row(n) for n in range(30)])
    options = {"kind": "hotpotqa", "data": {"path": path}, "train": 5, "val": 2, "order": order}

    train, val, report = build(options | {"max_prompt_tokens": limit, "min_prompt_tokens": 0}, Bytes())

    for example in [*train, *val]:
        number = example.id[1:]
        text = Bytes().decode(example.prompt.tolist())
        assert len(text) <= limit
        assert f"Question:\nWhich town of district {number} is the largest?\n\n" in text
        assert text.endswith("Answer:")
        assert f" houses.\n\n{'Answer:' if order == 'q_first' else 'Question:'}" in text
    whole, _, _ = build(options | {"max_prompt_tokens": 9999, "min_prompt_tokens": 0}, Bytes())
    assert report.train.truncated == sum(len(example.prompt) > limit for example in whole) / 5


def asked(example: Example, tokenizer: Bytes) -> str:
    return tokenizer.decode(example.prompt.tolist()).split("Question:\n")[1].split("\n\n")[0]


@pytest.mark.parametrize("order", ["q_first", "q_after"])
@pytest.mark.parametrize("limit", [768, 8192])
def test_build__real_files(
    shared_data: Callable[[str], Path], tokenizer: Bytes, order: str, limit: int
) -> None:
    files = {
        split: shared_data(f"hotpotqa/hotpotqa_distractor_{name}.jsonl")
        for split, name in (("train", "train"), ("val", "dev"))
    }
    options = {"kind": "hotpotqa", "data": files, "train": 250, "val": 200, "order": order}

    train, val, report = build(options | {"max_prompt_tokens": limit}, tokenizer)

    questions = {
        row["id"]: row["question"]
        for path in files.values()
        for row in map(json.loads, path.read_text().splitlines())
    }
    for example in [*train, *val]:
        assert asked(example, tokenizer) == " ".join(questions[example.id].split())
    assert report.val.prompt_tokens.max <= limit
    assert (report.val.truncated == 1.0) is (limit == 768)
    assert report.val.leak == report.train.leak == 0.0  # the answer is meant to stand in the context
    assert (report.val.lost_answers > 0.1) is (report.train.lost_answers > 0.1) is (limit == 768)
