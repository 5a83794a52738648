"""What holds for every kind, with rows as messy as files have them."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from task_samples import (
    ai2_row,
    arc_row,
    chain_row,
    hotpot_row,
    mbpp_row,
    protein_row,
    text_row,
    write_jsonl,
)

from model.tokenizers import get_tokenizer
from tasks import BuildError, DataError, build, get_kind, kinds, parse_config
from tasks.builtin.sudoku_puzzles import random_board

ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "arc": arc_row,
    "hotpotqa": hotpot_row,
    "mbpp": lambda number: mbpp_row(number + (11 if number % 3 else 601)),
    "protein_contact": chain_row,
    "protein_ss": protein_row,
    "punctuation": text_row,
    "sudoku": lambda number: {"puzzle": random_board(4, random.Random(number)), "id": number},
}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "arc": [{"order": "options_first"}, {"order": "q_first"}],
    "hotpotqa": [{"order": order, "min_prompt_tokens": 0} for order in ("q_first", "q_after")],
    "mbpp": [
        {"order": order, "notes": {"fill": fill}} for order, fill in (("q_first", True), ("q_after", False))
    ],
    "protein_contact": [
        {"order": "q_first", "pair_sampling": "random", "pairs": 9, "notes": {"max_residues": 50}},
        {"order": "q_after", "pair_sampling": "balanced", "pairs": 4, "notes": {"fill": False}},
    ],
    "protein_ss": [
        {"order": "q_first", "query_region": "prefix", "queries": 7, "states": 3},
        {"order": "q_after", "query_region": "suffix", "notes": {"fill": False}},
        {"query_region": "random", "max_sequence": 60, "min_sequence": 40, "queries": 20},
    ],
    "punctuation": [{"notes": {"fill": True, "pool_size": 3}}, {"notes": {"fill": False}, "min_chars": 24}],
    "sudoku": [{"size": 4, "blanks": 5, "mask_region": region} for region in ("random", "prefix", "suffix")],
}
CASES = [(kind, options) for kind, several in OPTIONS.items() for options in several]


def test_cases__cover_every_built_in_kind() -> None:
    assert set(ROWS) == set(OPTIONS) == set(kinds())


odd_values = st.one_of(
    st.none(),
    st.just(""),
    st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: f"𝄞{text}"),
    st.integers(-3, 1000),
    st.floats(allow_nan=True),
    st.lists(st.none() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["text", "label", "stem", "title"]), st.none() | st.text(max_size=3)),
    st.just("\ud800"),
)
changes = st.tuples(st.integers(0, 29), st.integers(0, 9), odd_values)


def messy(kind: str, changed: list[tuple[int, int, Any]], repeated: list[int]) -> list[dict[str, Any]]:
    """30 rows, some with an odd value in a column, some twice."""
    rows = [ROWS[kind](number) for number in range(30)]
    for number, column, value in changed:
        name = list(rows[number])[column % len(rows[number])]
        rows[number] = rows[number] | {name: value}
    return rows + [copy.deepcopy(rows[number]) for number in repeated]


@settings(max_examples=150)
@given(
    case=st.sampled_from(CASES),
    changed=st.lists(changes, max_size=25),
    repeated=st.lists(st.integers(0, 29), max_size=5),
    limit=st.sampled_from([1500, 900, 350, 90]),  # Hypothesis prefers the first, with which most can be built
    floor=st.integers(0, 60),
    answer=st.sampled_from([200, 60, 9, 1]),
    tokenizer_name=st.sampled_from(["bytes", "world"]),
    counts=st.tuples(st.integers(1, 4), st.integers(1, 2)),
)
def test_build__limits_and_splits_hold_and_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[str, dict[str, Any]],
    changed: list[tuple[int, int, Any]],
    repeated: list[int],
    limit: int,
    floor: int,
    answer: int,
    tokenizer_name: str,
    counts: tuple[int, int],
) -> None:
    kind, more = case
    path = write_jsonl(tmp_path_factory.mktemp("messy") / "rows.jsonl", messy(kind, changed, repeated))
    options = {
        "kind": kind,
        "data": {"path": path},
        "train": counts[0],
        "val": counts[1],
        "max_prompt_tokens": limit,
        "min_prompt_tokens": min(floor, limit),
        "max_answer_tokens": answer,
        **more,
    }
    tokenizer = get_tokenizer(tokenizer_name)
    try:
        train, val, report = build(options, tokenizer)
    except BuildError as error:
        event(f"{kind}: too few")
        assert str(error).startswith(f"{kind}: ")
        assert "To do: " in str(error)
        return
    event(f"{kind}: built")
    for example in [*train, *val]:
        assert min(floor, limit) <= len(example.prompt) <= limit
        assert 1 <= len(example.answer) <= answer
    assert not {one.id for one in train} & {one.id for one in val}
    assert len({one.id for one in [*train, *val]}) == len(train) + len(val) == sum(counts)
    for split in (report.train, report.val):
        assert split.rows_read == split.kept + sum(split.dropped.values())
        assert all(reason.isidentifier() and count > 0 for reason, count in split.dropped.items())
    assert build(options, tokenizer)[2] == report


@pytest.mark.parametrize("kind", ["arc", "protein_contact", "protein_ss", "sudoku"])
@pytest.mark.parametrize("tokenizer_name", ["bytes", "world"])
def test_build__structured_answers_are_one_symbol_a_token(
    tmp_path: Path, kind: str, tokenizer_name: str
) -> None:
    tokenizer = get_tokenizer(tokenizer_name)
    options: dict[str, Any] = {"kind": kind, "train": 6, "val": 2, "max_prompt_tokens": 700}
    if kind != "sudoku":
        options["data"] = {"path": write_jsonl(tmp_path / "a.jsonl", [ROWS[kind](n) for n in range(30)])}
    expected = {"arc": 1, "protein_contact": 32, "protein_ss": 48, "sudoku": 40}[kind]

    train, val, report = build(options, tokenizer)

    for example in [*train, *val]:
        symbols = [tokenizer.decode([token]) for token in example.answer.tolist()]
        assert len(symbols) == expected
        assert {len(symbol) for symbol in symbols} == {1}
    assert report.val.symbols_per_answer == expected
    assert report.val.symbol_pp == pytest.approx(100 / (2 * expected))


def test_build__both_arc_layouts_give_the_same_questions(tmp_path: Path) -> None:
    hub = write_jsonl(tmp_path / "hub.jsonl", [arc_row(number) for number in range(30)])
    ai2 = write_jsonl(tmp_path / "ai2.jsonl", [ai2_row(number) for number in range(30)])

    def prompts(path: Path) -> set[bytes]:
        options = {"kind": "arc", "data": {"train": path, "val": path}, "train": 20, "val": 10}
        return {one.prompt.tobytes() for part in build(options, get_tokenizer("bytes"))[:2] for one in part}

    assert prompts(hub) == prompts(ai2)


IN_ANOTHER_PROCESS = """
import json, sys
from model.tokenizers import get_tokenizer
from tasks import build
print([build(options, get_tokenizer("bytes"))[2].digest for options in json.loads(sys.argv[1])])
"""


def test_build__same_examples_in_every_process(tmp_path: Path) -> None:
    everything = []
    for kind, options in CASES:
        common: dict[str, Any] = {"kind": kind, "train": 4, "val": 2, "max_prompt_tokens": 900}
        if kind != "sudoku":
            path = write_jsonl(tmp_path / f"{kind}.jsonl", [ROWS[kind](number) for number in range(40)])
            common["data"] = {"path": str(path)}
        everything.append(common | options)

    digests = [
        subprocess.check_output(
            [sys.executable, "-c", IN_ANOTHER_PROCESS, json.dumps(everything)],
            env=os.environ | {"PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone},
            cwd=tmp_path,
            text=True,
        )
        for seed, locale, zone in (("1", "C", "UTC"), ("2", "C.UTF-8", "Asia/Tokyo"))
    ]

    assert digests[0] == digests[1]
    assert len(set(eval(digests[0]))) == len(everything)  # noqa: S307 - a list of strings, printed above


@pytest.mark.parametrize("kind", [kind for kind in ROWS if kind != "sudoku"])
def test_build__data_without_the_columns(tmp_path: Path, kind: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"other": 1}])

    with pytest.raises(DataError, match=r"a\.jsonl: no column for .*: expected .*, found other"):
        build({"kind": kind, "data": {"path": path}}, get_tokenizer("bytes"))


def test_options__are_explained_for_every_kind() -> None:
    for name, kind in kinds().items():
        assert kind.summary
        assert kind.__doc__
        described: Mapping[str, Any] = kind.Config.model_fields
        assert all(option.description for option in described.values()), name
        assert parse_config({"kind": name}).kind == name
        assert get_kind(name) is kind
