"""What is true of every task: limits, splits, duplicates, notes, reports, errors."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_samples import (
    Bytes,
    arc_row,
    chain_row,
    hotpot_row,
    mbpp_row,
    mbpp_rows,
    protein_row,
    text_row,
    write_jsonl,
)

from tasks import (
    BuildError,
    BuildReport,
    Candidate,
    Cut,
    DataError,
    Example,
    Part,
    Split,
    TaskConfig,
    build,
    get_kind,
    parse_config,
)
from tasks.assembly import Finished, finish
from tasks.encoding import Encoder
from tasks.notes import NotePool
from tasks.report import Lengths
from tasks.selection import Chosen

SMALL: dict[str, Any] = {
    "kind": "mbpp",
    "train": 4,
    "val": 3,
    "max_prompt_tokens": 400,
    "notes": {"fill": True},
}


@pytest.fixture
def mbpp_file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "mbpp.jsonl", mbpp_rows())


def contents(examples: list[Example]) -> list[tuple[str, list[int], list[int]]]:
    return [(one.id, one.prompt.tolist(), one.answer.tolist()) for one in examples]


def noted(example: Example) -> set[int]:
    """Numbers of the rows that an MBPP prompt has notes of."""
    _, _, notes = Bytes().decode(example.prompt.tolist()).partition("Notes:\n")
    return {int(number) for number in re.findall(r"to add (\d+) to a number", notes)}


def test_build__val_offset_passes_over_the_first_validation_examples(
    mbpp_file: Path, tokenizer: Bytes
) -> None:
    options = SMALL | {"data": {"path": mbpp_file}, "notes": {"fill": False}}
    _, both, _ = build(options | {"val": 6}, tokenizer)
    train, first, _ = build(options, tokenizer)
    same_train, second, report = build(options | {"val_offset": 3}, tokenizer)
    assert contents([*first, *second]) == contents(list(both))
    assert contents(list(same_train)) == contents(list(train))
    assert (report.val.wanted, report.val.kept, report.val.dropped) == (3, 3, {"passed_over": 3})
    assert report.val.rows_read == 6
    with pytest.raises(
        BuildError, match=r"built 4 of 4 train examples and 2 of 3 val examples.*lower val to 2"
    ):
        build(options | {"val_offset": 4}, tokenizer)


@pytest.mark.parametrize("offset", [0, 40])
def test_build__examples_after_those_of_a_selection_are_none_of_its_own(
    tokenizer: Bytes, offset: int
) -> None:
    """Of 4,608 puzzles many come again: what the selection trained on keeps out of what is measured afterwards."""
    options = {"kind": "sudoku", "size": 4, "blanks": 1, "train": 300, "val": 60, "val_offset": offset}
    train, val, _ = build(options, tokenizer)
    same_train, unseen, report = build(options | {"val_selected": 60}, tokenizer)
    assert contents(list(same_train)) == contents(list(train))
    assert len(unseen) == 60
    assert not {one.id for one in unseen} & {one.id for one in [*train, *val]}
    assert report.val.dropped["in_train"] > 0  # the test would else show nothing


def test_build__selects_by_split_and_fills_exactly(mbpp_file: Path, tokenizer: Bytes) -> None:
    train, val, report = build(SMALL | {"data": {"path": mbpp_file}}, tokenizer)

    assert {int(one.id) for one in train} < set(range(601, 609))
    assert {int(one.id) for one in val} < set(range(11, 17))
    for example in [*train, *val]:
        assert len(example.prompt) == 400
        assert example.prompt.dtype == example.answer.dtype == "int32"
    assert report.train.model_dump() == {
        "wanted": 4,
        "rows_read": 4,
        "kept": 4,
        "dropped": {},
        "prompt_tokens": {"min": 400, "p50": 400, "p90": 400, "max": 400},
        "answer_tokens": {"min": 35, "p50": 35, "p90": 35, "max": 35},
        "truncated": 0.0,
        "cut_answers": 0,
        "leak": 0.0,
        "lost_answers": 0.0,
    }
    assert report.val.n_tokens == sum(len(one.answer) for one in val)
    assert report.val.symbol_pp == 100 / report.val.n_tokens
    assert report.val.uniform_accuracy == 1 / 256
    assert report.val.symbols_per_answer is None


def test_build__notes_hold_no_target(mbpp_file: Path, tokenizer: Bytes) -> None:
    train, val, _ = build(SMALL | {"data": {"path": mbpp_file}, "max_prompt_tokens": 3000}, tokenizer)

    targets = {int(one.id) for one in [*train, *val]}
    for example in [*train, *val]:
        assert len(noted(example)) > 5
        assert not noted(example) & targets
        assert "return" not in tokenizer.decode(example.prompt.tolist())


def test_build__equal_counts_whatever_train_is(mbpp_file: Path, tokenizer: Bytes) -> None:
    options = SMALL | {"data": {"path": mbpp_file}, "notes": {"fill": False}}

    small, val, _ = build(options, tokenizer)
    large, same_val, _ = build(options | {"train": 8}, tokenizer)

    assert contents(list(large[:4])) == contents(list(small))
    assert contents(list(same_val)) == contents(list(val))


def test_build__drops_duplicates_and_validation_rows(tmp_path: Path, tokenizer: Bytes) -> None:
    val = [arc_row(1), arc_row(2), arc_row(2), arc_row(1, id="other name")]
    train = [
        arc_row(3),
        arc_row(1, id="renamed"),
        arc_row(2, question="New?"),
        arc_row(4, id="q3"),
        arc_row(5),
    ]
    data = {
        "train": write_jsonl(tmp_path / "train.jsonl", train),
        "val": write_jsonl(tmp_path / "val.jsonl", val),
    }
    options = {"kind": "arc", "data": data, "train": 9, "val": 9}

    with pytest.raises(BuildError) as caught:
        build(options, tokenizer)

    message = str(caught.value)
    assert message.startswith(
        "arc: built 2 of 9 train examples and 2 of 9 val examples. train: 5 rows read, "
    )
    assert "train: 5 rows read, dropped: in_val 2, duplicate_id 1." in message
    assert "val: 4 rows read, dropped: duplicate_content 2." in message
    assert message.endswith(
        "To do: lower train to 2; lower val to 2; give train rows that are not in val, by content or by id; rows of "
        "equal id count as the same: give each row an id of its own, or leave the ids out; give more data."
    )


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_build__rows_without_an_id_are_told_apart_by_content(
    tmp_path: Path, tokenizer: Bytes, missing: float | None
) -> None:
    rows = [arc_row(number, id=missing) for number in range(60)]
    data = {"path": write_jsonl(tmp_path / "a.jsonl", rows)}

    train, val, _ = build({"kind": "arc", "data": data, "train": 20, "val": 4}, tokenizer)

    assert len({one.id for one in [*train, *val]}) == 24


def test_build__content_ignores_case_and_space(tmp_path: Path, tokenizer: Bytes) -> None:
    rows = [
        mbpp_row(601),
        mbpp_row(
            602, **(mbpp_row(601) | {"task_id": 602, "text": "WRITE a  function to add 601 to a number. "})
        ),
    ]
    rows += [mbpp_row(11), mbpp_row(12)]
    data = {"path": write_jsonl(tmp_path / "a.jsonl", rows)}
    options = SMALL | {"data": data, "train": 2, "val": 1, "notes": {"fill": False}}

    with pytest.raises(BuildError, match="train: 2 rows read, dropped: duplicate_content 1"):
        build(options, tokenizer)


@pytest.mark.parametrize(
    ("limits", "reason", "advice"),
    [
        ({"max_prompt_tokens": 20}, "prompt_too_long", "raise max_prompt_tokens"),
        ({"min_prompt_tokens": 390}, "prompt_too_short", "lower min_prompt_tokens"),
    ],
)
def test_build__limits_say_what_to_change(
    mbpp_file: Path, tokenizer: Bytes, limits: dict[str, int], reason: str, advice: str
) -> None:
    options = SMALL | {"data": {"path": mbpp_file}, "notes": {"fill": False}} | limits

    with pytest.raises(BuildError) as caught:
        build(options, tokenizer)

    assert f"train: 8 rows read, dropped: {reason} 8." in str(caught.value)
    assert f"To do: {advice}; give more data." in str(caught.value)


def test_build__lone_surrogate_is_a_drop_reason(tmp_path: Path, tokenizer: Bytes) -> None:
    rows = [*mbpp_rows(train=4, val=3), mbpp_row(700, code="x = '\ud800'"), mbpp_row(701, text="\udfff")]
    data = {"path": write_jsonl(tmp_path / "a.jsonl", rows)}

    with pytest.raises(BuildError, match=r"built 4 of 5 train .* dropped: not_unicode 2"):
        build(SMALL | {"data": data, "train": 5}, tokenizer)


def test_build__no_row_for_a_split(tmp_path: Path, tokenizer: Bytes) -> None:
    data = {"path": write_jsonl(tmp_path / "a.jsonl", mbpp_rows(train=0))}

    with pytest.raises(
        BuildError, match=r"no row belongs to train: give two files, data: \{train: FILE, val: FILE\}"
    ):
        build(SMALL | {"data": data}, tokenizer)


def test_build__no_row_left_for_notes(tmp_path: Path, tokenizer: Bytes) -> None:
    data = {"path": write_jsonl(tmp_path / "a.jsonl", mbpp_rows(train=4, val=3, rest=0))}

    with pytest.raises(
        BuildError, match=r"^mbpp: no row is left to make notes of: .*notes: \{fill: false\}\.$"
    ):
        build(SMALL | {"data": data}, tokenizer)


def test_build__pool_size_bounds_the_notes(mbpp_file: Path, tokenizer: Bytes) -> None:
    options = SMALL | {"data": {"path": mbpp_file}, "notes": {"pool_size": 1}, "max_prompt_tokens": 2000}

    train, val, _ = build(options, tokenizer)

    assert len(set.union(*map(noted, [*train, *val]))) == 1


def test_build__counts_leaks(tmp_path: Path, tokenizer: Bytes) -> None:
    solution = "def add_601(x):\n    return x + 601"
    rows = [*mbpp_rows(train=4, val=3, rest=0), mbpp_row(511, text=f"Explain this: {solution}")]
    data = {"path": write_jsonl(tmp_path / "a.jsonl", rows)}

    _, _, report = build(SMALL | {"data": data}, tokenizer)

    assert (report.train.leak, report.val.leak) == (0.25, 0.0)


@pytest.mark.parametrize(
    ("options", "leak"),
    [({"queries": 1}, 0.0), ({"queries": 2, "states": 3}, 0.0), ({"queries": 48}, 1.0)],
)
def test_build__few_symbols_in_the_notes_are_chance(
    tmp_path: Path, tokenizer: Bytes, options: dict[str, int], leak: float
) -> None:
    """A note holds residues; only a long answer found there is a leak."""
    rows = [protein_row(number, Sequence="HEC" * 40, Secondary_structure="HEC" * 40) for number in range(3)]
    rows = [
        row | {"Sequence": row["Sequence"][:-number] + "A" * number} for number, row in enumerate(rows, 1)
    ]
    train = write_jsonl(tmp_path / "a.jsonl", rows)
    val = write_jsonl(tmp_path / "b.jsonl", [protein_row(9)])
    data = {"kind": "protein_ss", "data": {"train": train, "val": val}, "train": 2, "val": 1}

    *_, report = build(data | {"query_region": "prefix"} | options, tokenizer)

    assert report.train.leak == leak
    assert report.val.leak == 0.0


def test_build__cut_answer_that_stands_in_a_note_is_a_leak(tmp_path: Path, tokenizer: Bytes) -> None:
    """Only what is trained on counts: here the texts differ after that."""
    texts = [f"{'On and on it goes, ' * 6}{end}" for end in ("today.", "tomorrow.", "never!")]
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts[:2]])
    val = write_jsonl(tmp_path / "b.jsonl", [text_row(7)])
    options = {"kind": "punctuation", "data": {"train": train, "val": val}, "train": 1, "val": 1}

    assert build(options | {"max_answer_tokens": 100}, tokenizer)[2].train.leak == 1.0
    assert build(options | {"max_answer_tokens": 180}, tokenizer)[2].train.leak == 0.0


@pytest.mark.parametrize(
    ("options", "extractive", "answer", "leaks"),
    [
        ({}, False, "\nby the sea \n", 1),
        ({}, True, "by the sea", 0),
        ({"max_prompt_tokens": 15}, False, "by the sea", 0),  # what is cut off stands in no prompt
        ({"max_answer_tokens": 7}, False, "by the\u00e9", 1),  # half a character is left of the last one
        ({}, False, "\n", 0),
    ],
)
def test_finish__a_leak_is_of_what_is_trained_on(
    tokenizer: Bytes, options: dict[str, int], extractive: bool, answer: str, leaks: int
) -> None:
    assert _finished(tokenizer, options, answer, extractive=extractive).leaks == leaks


@pytest.mark.parametrize(
    ("options", "extractive", "answer", "lost"),
    [
        ({"max_prompt_tokens": 15}, True, " by the sea", 1),
        ({"max_prompt_tokens": 22}, True, " by the sea", 1),  # of which a letter is left out
        ({"max_prompt_tokens": 23}, True, " by the sea", 0),
        ({"max_prompt_tokens": 15}, True, " yes", 0),  # was not to be found
        ({"max_prompt_tokens": 15}, True, " Where", 0),  # is asked for, too
        ({"max_prompt_tokens": 9, "max_answer_tokens": 6}, True, " town with trees", 1),
        ({"max_prompt_tokens": 15}, False, " by the sea", 0),
        ({}, True, " by the sea", 0),
    ],
)
def test_finish__an_answer_goes_with_what_is_cut(
    tokenizer: Bytes, options: dict[str, int], extractive: bool, answer: str, lost: int
) -> None:
    assert _finished(tokenizer, options, answer, extractive=extractive).lost_answers == lost


def _finished(tokenizer: Bytes, options: dict[str, int], answer: str, *, extractive: bool) -> Finished:
    """One example of which all but six tokens may be cut."""
    limits = {"kind": "x", "train": 1, "val": 1, "max_prompt_tokens": 99, "max_answer_tokens": 99}
    prompt = (Part("A town by the sea\n", cut=Cut.RIGHT), Part("Where?"))
    candidate = Candidate(content="c", prompt=prompt, answer=answer, extractive=extractive)
    chosen = Chosen(Split.TRAIN, 1)
    chosen.add(Encoder(TaskConfig.model_validate(limits | options), tokenizer).draft(candidate))
    return finish(chosen, NotePool([], tokenizer), tokenizer)


def test_report__percentiles_are_lengths_that_occur() -> None:
    assert Lengths.of(range(101)) == Lengths(min=0, p50=50, p90=90, max=100)
    assert Lengths.of([1, 2]) == Lengths(min=1, p50=1, p90=1, max=2)


def test_build__symbol_that_is_no_token_is_a_drop_reason(tmp_path: Path, tokenizer: Bytes) -> None:
    rows = [arc_row(number) for number in range(3)]
    data = {name: write_jsonl(tmp_path / f"{name}.jsonl", rows) for name in ("train", "val")}

    class Narrow(Bytes):
        def encode_symbols(self, text: str) -> list[int]:
            raise ValueError(text)

    with pytest.raises(BuildError, match="train: 3 rows read, dropped: symbol_not_one_token 3"):
        build({"kind": "arc", "data": data}, Narrow())


def test_build__counts_cut_answers(mbpp_file: Path, tokenizer: Bytes) -> None:
    train, _, report = build(SMALL | {"data": {"path": mbpp_file}, "max_answer_tokens": 10}, tokenizer)

    assert report.train.cut_answers == 4
    assert tokenizer.decode(train[0].answer.tolist()) == "\ndef add_6"


def test_build__majority_token_of_train_on_val(tmp_path: Path, tokenizer: Bytes) -> None:
    train = [arc_row(n, answerKey="B" if n < 4 else "A") for n in range(6)]
    val = [arc_row(n, answerKey="B" if n < 11 else "C") for n in range(10, 14)]
    data = {
        "train": write_jsonl(tmp_path / "train.jsonl", train),
        "val": write_jsonl(tmp_path / "val.jsonl", val),
    }

    _, _, report = build({"kind": "arc", "data": data, "train": 6, "val": 4}, tokenizer)

    assert report.val.majority_accuracy == 0.25
    assert report.val.constant_accuracy == 0.75
    assert report.val.uniform_accuracy == 0.25
    assert (report.val.n_tokens, report.val.symbols_per_answer, report.val.symbol_pp) == (4, 1.0, 25.0)


def test_build__missing_column(tmp_path: Path, tokenizer: Bytes) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "codes": "b"}])

    with pytest.raises(DataError) as caught:
        build(SMALL | {"data": {"path": path}}, tokenizer)

    assert str(caught.value) == (
        f"{path}: no column for code: expected code or canonical_solution or completion, "
        "found text, codes (did you mean codes?)"
    )


def test_report__survives_json(mbpp_file: Path, tokenizer: Bytes) -> None:
    *_, report = build(SMALL | {"data": {"path": mbpp_file}}, tokenizer)

    assert BuildReport.model_validate_json(report.model_dump_json()) == report
    assert BuildReport.model_validate(json.loads(report.model_dump_json())) == report


def test_show__prompt_and_answer(mbpp_file: Path, tokenizer: Bytes) -> None:
    config = parse_config(SMALL | {"data": {"path": mbpp_file}, "notes": {"fill": False}})
    train, _, _ = build(config, tokenizer)

    assert get_kind("mbpp")(config).show(train[0], tokenizer).splitlines()[:4] == [
        train[0].id,
        f"--- prompt, {len(train[0].prompt)} tokens:",
        "Problem:",
        f"Write a function to add {train[0].id} to a number.",
    ]


DIGESTS = """
import sys
sys.path.insert(0, {samples!r})
from task_samples import Bytes
from tasks import build
for options in {options!r}:
    print(build(options, Bytes())[2].digest)
"""


def test_build__same_digests_in_every_process(tmp_path: Path) -> None:
    """The digests stand here: where one changes, BUILD_VERSION of the cache has to grow."""
    mbpp = str(write_jsonl(tmp_path / "mbpp.jsonl", mbpp_rows()))
    protein = str(write_jsonl(tmp_path / "protein.jsonl", [protein_row(number) for number in range(40)]))
    arc = str(write_jsonl(tmp_path / "arc.jsonl", [arc_row(number) for number in range(40)]))
    hotpot = str(write_jsonl(tmp_path / "hotpot.jsonl", [hotpot_row(number) for number in range(40)]))
    chains = str(write_jsonl(tmp_path / "chains.jsonl", [chain_row(number) for number in range(40)]))
    texts = str(write_jsonl(tmp_path / "texts.jsonl", [text_row(number) for number in range(40)]))
    options = [
        SMALL | {"data": {"path": mbpp}},
        {"kind": "protein_ss", "train": 6, "val": 3, "data": {"path": protein}},
        {"kind": "arc", "train": 6, "val": 2, "data": {"path": arc}},
        {"kind": "sudoku", "size": 4, "train": 10, "val": 5},
        {"kind": "sudoku", "train": 3, "val": 2},
        {"kind": "hotpotqa", "train": 6, "val": 3, "max_prompt_tokens": 200, "data": {"path": hotpot}},
        {"kind": "protein_contact", "train": 6, "val": 3, "data": {"path": chains}},
        {"kind": "punctuation", "train": 6, "val": 3, "data": {"path": texts}},
    ]
    script = DIGESTS.format(samples=str(Path(__file__).parent), options=options)

    digests = [
        subprocess.check_output(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, text=True
        ).split()
        for seed in ("1", "2")
    ]

    assert digests[0] == digests[1]
    assert [digest[:12] for digest in digests[0]] == [
        "549321a6ac76",
        "a90f73e87c8c",
        "3c58d4053e01",
        "b78a652965d3",
        "eb0142bea73c",
        "623d5b2ddbce",
        "af2025cece20",
        "e7ca5b89e777",
    ]


lines = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
row_of_any_kind = st.fixed_dictionaries(
    {"text": lines, "code": lines},
    optional={"task_id": st.integers(1, 990), "test_list": st.none() | st.lists(lines, max_size=3)},
)
few_rows, rows_of_both_splits = (
    st.lists(row_of_any_kind, min_size=least, max_size=most) for least, most in ((1, 8), (8, 30))
)


@settings(max_examples=60, deadline=None)
@given(
    rows_of_both_splits | rows_of_both_splits | few_rows,
    st.integers(20, 400),
    st.integers(0, 60),
    st.integers(1, 30),
    st.booleans(),
)
def test_build__limits_and_disjointness_hold_for_any_rows(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    ceiling: int,
    floor: int,
    answer: int,
    fill: bool,
) -> None:
    path = write_jsonl(tmp_path_factory.mktemp("any") / "a.jsonl", rows)
    options = {
        "kind": "mbpp",
        "data": {"path": path},
        "train": 1,
        "val": 1,
        "max_prompt_tokens": ceiling,
        "min_prompt_tokens": min(floor, ceiling),
        "max_answer_tokens": answer,
        "notes": {"fill": fill},
    }
    try:
        train, val, report = build(options, Bytes())
    except BuildError:
        return
    for example in [*train, *val]:
        assert min(floor, ceiling) <= len(example.prompt) <= ceiling
        assert len(example.prompt) == ceiling or not fill
        assert 1 <= len(example.answer) <= answer
    assert not {one.id for one in train} & {one.id for one in val}
    for split in (report.train, report.val):
        assert split.rows_read == split.kept + sum(split.dropped.values())
        assert math.isclose(split.truncated, 0)
