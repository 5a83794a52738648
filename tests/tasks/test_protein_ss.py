from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_samples import Bytes, protein_row, write_jsonl

from tasks import BuildError, Candidate, NotesSlot, RowError, build
from tasks.builtin.protein_ss import ProteinSS, ProteinSSConfig
from tasks.rows import bind


def candidate(raw: dict[str, Any], **options: Any) -> Candidate:
    task = ProteinSS(ProteinSSConfig(**options))
    return task.candidate(bind(task.columns, [raw], "test")[0])


def asked(made: Candidate) -> list[int]:
    """Positions of the queries, from 0."""
    text = "".join(part.text for part in made.prompt if not isinstance(part, NotesSlot))
    return [int(number) - 1 for number in text.split("Queries(1-based):\n")[1].split("\n")[0].split(",")]


@given(
    st.integers(0, 10**6),
    st.integers(96, 700),
    st.sampled_from(["random", "prefix", "suffix"]),
    st.integers(1, 96),
)
def test_candidate__answers_are_the_states_of_the_queries(
    number: int, length: int, region: str, queries: int
) -> None:
    row = protein_row(number, length)
    made = candidate(row, queries=queries, query_region=region, max_sequence=400)

    sequence = next(part for part in made.prompt if not isinstance(part, NotesSlot) and part.symbols).text
    start = row["Sequence"].index(sequence)
    structure = row["Secondary_structure"].replace("~", "C")[start:]
    assert len(sequence) == min(length, 400)
    assert made.answer == "".join(structure[position] for position in asked(made))
    assert len(set(asked(made))) == queries
    assert asked(made) == sorted(asked(made))
    if region != "random":
        assert asked(made)[0 if region == "prefix" else -1] == (
            0 if region == "prefix" else len(sequence) - 1
        )


def test_candidate__layout() -> None:
    row = protein_row(1, 96)
    parts = candidate(row, queries=2, query_region="prefix").prompt

    assert [part if isinstance(part, NotesSlot) else part.text for part in parts[1:]] == [
        "Sequence:\n",
        row["Sequence"],
        "\n\nQueries(1-based):\n1,2\n\n",
        NotesSlot("Notes:\n", "\n\n"),
        "Answer:",
    ]
    after = candidate(row, queries=2, query_region="prefix", order="q_after").prompt
    assert after == (parts[0], parts[4], *parts[1:4], parts[5])


def test_candidate__note_is_the_beginning_of_the_chain() -> None:
    row = protein_row(1, 300)
    assert candidate(row, max_sequence=96).note == f"Protein note P1: {row['Sequence'][:256]}"
    shorter = candidate(row, notes={"max_residues": 192})
    assert shorter.note == f"Protein note P1: {row['Sequence'][:192]}"
    assert candidate(row | {"PDB_ID": None}).note == f"Protein note: {row['Sequence'][:256]}"


@pytest.mark.parametrize(
    ("columns", "states", "expected"),
    [
        ({"dssp8": "HGIEBTSC"}, 8, "HGIEBTSC"),
        ({"Secondary_structure": "HGIEBT~P"}, 8, "HGIEBTCC"),
        ({"Secondary_structure": "HGIEBT  "}, 8, "HGIEBTCC"),
        ({"Secondary_structure": " " * 8 + "\r\n"}, 8, "C" * 8),
        ({"Secondary_structure": "HG_EBTL."}, 8, "HGCEBTCC"),
        ({"dssp3": "HHHEECCC", "dssp8": "TTTTTTTT"}, 3, "HHHEECCC"),
        ({"dssp8": "HGIEBTSC"}, 3, "HHHEECCC"),
        ({"Secondary_structure": "HGIEBT -"}, 3, "HHHEECCC"),
    ],
)
def test_candidate__states(columns: dict[str, str], states: int, expected: str) -> None:
    row = {"input": "ACDEFGHI", **columns}

    made = candidate(row, states=states, min_sequence=8, queries=8)

    assert (made.answer, made.choices) == (expected, states)


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"Sequence": None}, {}, "no_sequence"),
        ({"Secondary_structure": ""}, {}, "no_structure"),
        ({"Secondary_structure": 5}, {}, "structure_not_text"),
        ({"Sequence": "ACD1" * 30}, {}, "sequence_not_letters"),
        ({"Sequence": "É" * 120}, {}, "sequence_not_letters"),
        ({"Sequence": "A" * 119}, {}, "lengths_differ"),
        ({"Secondary_structure": "Q" * 120}, {}, "unknown_state"),
        ({}, {"min_sequence": 121}, "sequence_too_short"),
        ({}, {"queries": 121}, "fewer_residues_than_queries"),
    ],
)
def test_candidate__drop_reasons(changes: dict[str, Any], options: dict[str, int], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        candidate(protein_row(1, **changes), **options)

    assert caught.value.reason == reason


def test_build__advice(tmp_path: Path, tokenizer: Bytes) -> None:
    data = {"path": write_jsonl(tmp_path / "a.jsonl", [protein_row(number, 90) for number in range(9)])}

    with pytest.raises(
        BuildError, match=r"dropped: sequence_too_short \d.* To do: lower min_sequence; give more"
    ):
        build({"kind": "protein_ss", "data": data}, tokenizer)


def test_build__chains_that_begin_alike_are_asked_once(tmp_path: Path, tokenizer: Bytes) -> None:
    core = protein_row(1, 130)["Sequence"]
    rows = [
        {"PDB_ID": f"P{n}", "Sequence": core + str.join("", tail), "Secondary_structure": "H" * 132}
        for n, tail in enumerate(product("ACDEFGHIKL", repeat=2))
    ]
    data = {"path": write_jsonl(tmp_path / "a.jsonl", rows)}
    options = {"max_sequence": 96, "query_region": "prefix", "train": 12, "val": 6, "notes": {"fill": False}}

    train, val, report = build({"kind": "protein_ss", "data": data, **options}, tokenizer)

    assert len({tuple(one.prompt) for one in (*train, *val)}) == 18
    assert report.val.dropped["duplicate_content"] + report.train.dropped["in_val"] > 0


@pytest.mark.parametrize("states", [3, 8])
def test_build__real_file(shared_data: Callable[[str], Path], tokenizer: Bytes, states: int) -> None:
    data = {"path": shared_data("protein/cb513_ss8.csv")}
    options = {"kind": "protein_ss", "data": data, "train": 180, "val": 40, "states": states}

    train, val, report = build(options, tokenizer)

    assert not {one.id for one in train} & {one.id for one in val}
    assert report.val.prompt_tokens.min == report.val.prompt_tokens.max == 2048
    assert (report.val.n_tokens, report.val.symbols_per_answer) == (40 * 48, 48)
    assert report.val.uniform_accuracy == pytest.approx(1 / states)
    assert 1 / states < report.val.majority_accuracy < 0.5
    assert report.train.dropped.keys() == {"duplicate_content", "sequence_too_short"}
