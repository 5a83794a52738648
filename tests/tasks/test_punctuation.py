from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_samples import Bytes, text_row, write_jsonl

from tasks import Candidate, DataError, NotesSlot, Part, RowError, build
from tasks.builtin.punctuation import MARKS, Punctuation, PunctuationConfig
from tasks.rows import bind

TEXT = "In 1931, “The Tower” opened (at last): who'd have thought it would stand? Nobody!"


def candidate(raw: dict[str, Any], **options: Any) -> Candidate:
    task = Punctuation(PunctuationConfig(**options))
    return task.candidate(bind(task.columns, [raw], "test")[0])


def test_candidate__layout() -> None:
    made = candidate({"text": TEXT})

    assert made.prompt == (
        NotesSlot(before="Background notes:\n", after="\n\n"),
        Part(
            "Noisy transcript:\nin 1931 “the tower” opened at last who'd have thought it would stand nobody\n\n"
            "Task: Restore punctuation and casing.\n\nAnswer:"
        ),
    )
    assert (made.answer, made.note, made.choices) == (f" {TEXT}", TEXT, None)


@given(st.text(st.sampled_from(MARKS + string.ascii_letters + "äß𝄞🎼 \n\t'-"), min_size=40, max_size=120))
def test_candidate__transcript_has_nothing_to_restore(text: str) -> None:
    try:
        made = candidate({"text": text}, min_chars=24)
    except RowError:
        return
    noisy = made.prompt[1].text.split("\n")[1]  # type: ignore[union-attr]
    words = "".join(" " if letter in MARKS else letter for letter in text).lower().split()

    assert noisy == " ".join(words)  # the words and single spaces: gaps would give the marks away
    assert noisy != made.answer.strip()
    assert made.answer == " " + " ".join(text.split())


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({"text": TEXT, "question": "Other?"}, None, TEXT),
        ({"question": "Who was it?", "answer": TEXT, "context": "Else."}, None, f"Who was it? {TEXT}"),
        ({"question": TEXT, "answers": {"text": ["yes"]}}, None, TEXT),
        ({"instruction": "Do it.", "output": TEXT, "prompt": None}, None, f"Do it. {TEXT}"),
        ({"prompt": TEXT}, None, TEXT),
        ({"label": 3, "text": TEXT}, None, TEXT),
        ({"text": "Other.", "body": TEXT}, "body", TEXT),
        ({"question": {"stem": TEXT}}, "question.stem", TEXT),
        ({"question.stem": TEXT, "question": {"stem": "Other."}}, "question.stem", TEXT),
        ({"text": "", "question": TEXT}, None, TEXT),
        ({"context": {"sentences": [["In 1931, “The Tower” opened"], [TEXT]]}}, "context.sentences", None),
    ],
)
def test_candidate__columns(row: dict[str, Any], field: str | None, text: str | None) -> None:
    made = candidate(row, field=field, max_chars=400)

    assert made.answer == f" {text or 'In 1931, “The Tower” opened ' + TEXT}"


@pytest.mark.parametrize(
    ("row", "options", "reason"),
    [
        ({"text": None}, {}, "no_text"),
        ({"text": ""}, {}, "no_text"),
        ({"text": 5}, {}, "text_not_text"),
        ({"question": " "}, {}, "no_text"),
        ({"body": [" "]}, {"field": "body"}, "no_text"),
        ({"body": {"a": TEXT}}, {"field": "body.b"}, "no_text"),
        ({"body": 5}, {"field": "body"}, "text_not_text"),
        ({"text": TEXT}, {"min_chars": 82}, "text_too_short"),
        ({"text": TEXT}, {"max_chars": 80}, "text_too_long"),
        ({"text": TEXT.translate(dict.fromkeys(map(ord, MARKS)))}, {}, "no_punctuation"),
        ({"text": "12,345.678 " * 7 + "and a few letters"}, {}, "too_few_letters"),
        ({"text": "Twenty-three letters: abc" + "." * 50}, {}, "too_few_letters"),
        ({"text": "Twenty-one letters: abcd."}, {"min_chars": 24}, "too_few_letters"),
        ({"text": "More than twenty-four letters: " + "1234, " * 20}, {"max_chars": 400}, "too_few_letters"),
    ],
)
def test_candidate__drop_reasons(row: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        candidate(row, **options)

    assert caught.value.reason == reason


def test_candidate__shortest_and_longest_texts_are_taken() -> None:
    assert candidate({"text": TEXT}, min_chars=len(TEXT), max_chars=len(TEXT)).answer == f" {TEXT}"


def test_config__window() -> None:
    with pytest.raises(ValueError, match=r"min_chars \(64\) exceeds max_chars \(50\)"):
        PunctuationConfig(max_chars=50)
    with pytest.raises(ValueError, match="field names no column"):
        PunctuationConfig(field="")


def test_build__missing_columns(tmp_path: Path, tokenizer: Bytes) -> None:
    data = {"path": write_jsonl(tmp_path / "a.jsonl", [{"texts": TEXT}])}

    with pytest.raises(
        DataError, match=r"no column for some text: expected text or question or .* mean texts"
    ):
        build({"kind": "punctuation", "data": data}, tokenizer)
    with pytest.raises(DataError, match=r"no column for text: expected body.a or body, found texts"):
        build({"kind": "punctuation", "data": data, "field": "body.a"}, tokenizer)


def test_build__no_target_in_the_notes(tmp_path: Path, tokenizer: Bytes) -> None:
    """The predecessor made its notes of the very lines that it asked for."""
    rows = [text_row(number) for number in range(60)]
    data = {"path": write_jsonl(tmp_path / "a.jsonl", rows)}

    train, val, report = build({"kind": "punctuation", "data": data, "train": 30, "val": 5}, tokenizer)

    targets = [tokenizer.decode(one.answer.tolist()).strip() for one in [*train, *val]]
    for example in [*train, *val]:
        notes = tokenizer.decode(example.prompt.tolist()).split("Noisy transcript:")[0]
        assert len(notes) > 500
        assert not any(target in notes for target in targets)
    assert report.train.leak == report.val.leak == 0.0


def test_build__text_that_another_text_quotes_is_a_leak(tmp_path: Path, tokenizer: Bytes) -> None:
    rows = [text_row(number) for number in range(2)]
    train = write_jsonl(tmp_path / "a.jsonl", rows)
    longer = {"text": f"{rows[0]['text']} And so on, for ever."}
    val = write_jsonl(tmp_path / "b.jsonl", [text_row(7), longer])
    options = {"kind": "punctuation", "data": {"train": train, "val": val}, "train": 2, "val": 1}

    _, val_set, report = build(options, tokenizer)

    assert (
        tokenizer.decode(val_set[0].answer.tolist()).strip() == text_row(7)["text"]
    )  # so `longer` is a note
    assert (report.train.leak, report.val.leak) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("text/squad_v1.1_dev_questions.jsonl", {"train": 1200, "val": 160}),
        ("text/wikitext2_raw_test.txt", {"train": 20, "val": 5, "max_chars": 400}),
        ("hotpotqa/hotpotqa_distractor_train.jsonl", {"train": 150, "val": 30}),
        ("mbpp/mbpp.jsonl", {"train": 340, "val": 100, "min_chars": 24, "max_chars": 360}),
        ("arc/arc_challenge_train.jsonl", {"train": 300, "val": 80}),
        ("arc/arc_challenge_dev_ai2.jsonl", {"train": 60, "val": 20, "field": "question.stem"}),
    ],
)
def test_build__real_files(
    shared_data: Callable[[str], Path], tokenizer: Bytes, file: str, options: dict[str, Any]
) -> None:
    data = {"path": shared_data(file)}

    train, val, report = build({"kind": "punctuation", "data": data, **options}, tokenizer)

    assert (len(train), len(val)) == (options["train"], options["val"])
    assert report.train.leak == 0.0
    for example in val:
        assert not any(mark in example_transcript(example, tokenizer) for mark in MARKS)


def example_transcript(example: Any, tokenizer: Bytes) -> str:
    return tokenizer.decode(example.prompt.tolist()).split("Noisy transcript:\n")[1].split("\n")[0]
