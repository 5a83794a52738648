from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_samples import Bytes, chain_row, write_jsonl

from tasks import BuildError, Candidate, NotesSlot, Part, RowError, build
from tasks.builtin.protein_contact import ProteinContact, ProteinContactConfig
from tasks.rows import bind


def candidate(raw: dict[str, Any], **options: Any) -> Candidate:
    task = ProteinContact(ProteinContactConfig(**options))
    return task.candidate(bind(task.columns, [raw], "test")[0])


def shown(made: Candidate) -> tuple[str, list[tuple[int, int]]]:
    """The sequence in the prompt, and the pairs asked about, from 0."""
    parts = [part for part in made.prompt if isinstance(part, Part)]
    listed = "".join(part.text for part in parts).split("Pairs(1-based):\n")[1].split("\n")[0]
    pairs = [tuple(int(number) - 1 for number in pair.split("-")) for pair in listed.split(",")]
    return next(part.text for part in parts if part.symbols), pairs  # type: ignore[return-value]


@given(
    number=st.integers(0, 10**6),
    length=st.integers(96, 200),
    longest=st.integers(96, 160),
    separation=st.integers(1, 20),
    cutoff=st.floats(4, 20),
    sampling=st.sampled_from(["random", "balanced"]),
    gaps=st.sets(st.integers(0, 95), max_size=20),
)
def test_candidate__bits_agree_with_the_distances(
    number: int, length: int, longest: int, separation: int, cutoff: float, sampling: str, gaps: set[int]
) -> None:
    row = chain_row(number, length)
    points = [None if place in gaps else point for place, point in enumerate(row["tertiary"])]
    options = {"min_separation": separation, "cutoff": cutoff, "pair_sampling": sampling}
    try:
        made = candidate(row | {"tertiary": points}, max_sequence=longest, pairs=12, **options)
    except RowError as error:
        assert error.reason in {"too_few_contacts", "too_few_non_contacts"}
        assert sampling == "balanced"
        return
    sequence, pairs = shown(made)
    start = row["seq"].index(sequence)

    assert len(sequence) == min(length, longest)
    assert pairs == sorted(set(pairs))
    assert len(pairs) == 12
    for (left, right), bit in zip(pairs, made.answer, strict=True):
        assert right - left >= separation
        one, other = points[start + left], points[start + right]
        assert one is not None
        assert other is not None
        assert (math.dist(one, other) <= cutoff) is (bit == "1")
    if sampling == "balanced":
        assert made.answer.count("1") == 6


@pytest.mark.parametrize(("ratio", "contacts"), [(0, 0), (0.25, 2), (0.8, 6), (1, 8)])
def test_candidate__share_of_contacts(ratio: float, contacts: int) -> None:
    made = candidate(chain_row(1), pairs=8, pair_sampling="balanced", positive_ratio=ratio)

    assert made.answer.count("1") == contacts


def test_candidate__distance_equal_to_the_cutoff_is_a_contact() -> None:
    row = {"seq": "AAA", "ca": [[0, 0, 0], [8, 0, 0], [16.5, 0, 0]]}

    made = candidate(row, pairs=3, min_separation=1, min_sequence=3)

    assert (shown(made)[1], made.answer) == ([(0, 1), (0, 2), (1, 2)], "100")


def test_candidate__layout() -> None:
    options = {"pairs": 2, "min_separation": 1}
    made = candidate(chain_row(1, 96), **options)
    _, pairs = shown(made)
    asked = ",".join(f"{left + 1}-{right + 1}" for left, right in pairs)

    assert [part if isinstance(part, NotesSlot) else part.text for part in made.prompt] == [
        "Say which pairs of residues of a protein are in contact: at most 8 angstrom apart.\n"
        "Write one bit for each pair, in the order of the pairs.\n"
        "1 means contact, 0 means no contact.\n\n",
        "Sequence:\n",
        chain_row(1, 96)["seq"],
        f"\n\nPairs(1-based):\n{asked}\n\n",
        NotesSlot("Notes:\n", "\n\n"),
        "Answer bits:",
    ]
    parts = made.prompt
    assert candidate(chain_row(1, 96), order="q_after", **options).prompt == (
        parts[0],
        parts[4],
        *parts[1:4],
        parts[5],
    )
    assert (made.choices, made.note) == (2, f"Protein note C1: {chain_row(1, 96)['seq']}")


def test_candidate__points_of_beta_carbons_before_alpha() -> None:
    row = chain_row(1)
    far = [[100.0 * place, 0.0, 0.0] for place in range(110)]
    local = {"id": "x", "seq": row["seq"], "ca": far, "cb": row["tertiary"]}

    assert candidate(local).answer == candidate(row).answer
    assert set(candidate(local | {"cb": row["tertiary"], "ca": row["tertiary"]}).answer) == {"0", "1"}
    assert candidate(local | {"cb": None, "ca": row["tertiary"]}).answer == candidate(row).answer


def test_candidate__glycine_without_a_beta_carbon_has_its_alpha() -> None:
    row = chain_row(1)
    sequence = "G" * 55 + "W" + row["seq"][56:].replace("G", "A").replace("W", "A")
    alpha = row["tertiary"]
    beta = [None if residue in "GW" else point for residue, point in zip(sequence, alpha, strict=True)]

    _, pairs = shown(candidate({"id": "x", "seq": sequence, "ca": alpha, "cb": beta}, pairs=200))

    asked = {place for pair in pairs for place in pair}
    assert asked & set(range(55))
    assert 55 not in asked  # no glycine
    whole = {"id": "x", "seq": sequence, "cb": alpha}
    assert candidate(whole | {"ca": [[0.0, 0.0, 0.0]]}) == candidate(whole)  # which nothing needs


@pytest.mark.parametrize(
    "mask",
    [
        [False] * 60 + [True] * 50,
        [0] * 60 + [1] * 50,
        "0" * 60 + "1" * 50,
        "-" * 60 + "+" * 50,
    ],
)
def test_candidate__masked_residues_are_in_no_pair(mask: Any) -> None:
    _, pairs = shown(candidate(chain_row(1, valid_mask=mask)))

    assert min(min(pair) for pair in pairs) >= 60


@pytest.mark.parametrize("gap", [None, [None, None, None], [1.0, None, 2.0], [float("nan"), 0.0, 0.0]])
def test_candidate__gap(gap: Any) -> None:
    points = chain_row(1)["tertiary"]
    row = chain_row(1, tertiary=[*points[:50], *[gap] * 50, *points[100:]])

    _, pairs = shown(candidate(row))

    assert all(not 50 <= place < 100 for pair in pairs for place in pair)


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"seq": None}, {}, "no_seq"),
        ({"seq": "A-C" * 40}, {}, "sequence_not_letters"),
        ({"seq": "A" * 109}, {}, "lengths_differ"),
        ({"tertiary": None}, {}, "no_points"),
        ({"tertiary": "text"}, {}, "points_not_numbers"),
        ({"tertiary": [["x", 0, 0]] * 110}, {}, "points_not_numbers"),
        ({"tertiary": [[0, 0]] * 110}, {}, "points_not_numbers"),
        ({"tertiary": [[10**400, 0, 0]] * 110}, {}, "points_not_numbers"),
        ({"tertiary": [None] * 110}, {}, "too_few_pairs"),
        ({"tertiary": [[float("inf"), 0.0, 0.0]] * 110}, {}, "too_few_pairs"),
        (
            {"tertiary": [[(-1) ** place * 1e300, 0.0, 0.0] for place in range(110)]},
            {"pairs": 6000},
            "too_few_pairs",
        ),
        ({"valid_mask": [1] * 109}, {}, "bad_mask"),
        ({"valid_mask": 1}, {}, "bad_mask"),
        ({}, {"min_sequence": 111}, "sequence_too_short"),
        ({}, {"min_separation": 109, "pairs": 2}, "too_few_pairs"),
        ({}, {"pair_sampling": "balanced", "cutoff": 0.1}, "too_few_contacts"),
        ({}, {"pair_sampling": "balanced", "cutoff": 1000}, "too_few_non_contacts"),
    ],
)
def test_candidate__drop_reasons(changes: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        candidate(chain_row(1, **changes), **options)

    assert caught.value.reason == reason.replace("no_seq", "no_sequence")


def test_candidate__unknown_residues_stay() -> None:
    sequence = "X" * 50 + chain_row(1)["seq"][50:].lower()

    assert shown(candidate(chain_row(1, seq=sequence)))[0] == sequence.upper()


def test_build__advice(tmp_path: Path, tokenizer: Bytes) -> None:
    data = {"path": write_jsonl(tmp_path / "a.jsonl", [chain_row(number) for number in range(9)])}
    options = {"kind": "protein_contact", "data": data, "cutoff": 0.01, "pair_sampling": "balanced"}

    with pytest.raises(
        BuildError, match="To do: lower pairs, positive_ratio or min_separation, or raise cut"
    ):
        build(options, tokenizer)


@pytest.mark.parametrize("sampling", ["random", "balanced"])
def test_build__real_file(shared_data: Callable[[str], Path], tokenizer: Bytes, sampling: str) -> None:
    data = {"path": shared_data("protein/pdb_chains_coordinates.jsonl")}
    options = {"kind": "protein_contact", "data": data, "train": 60, "val": 15, "pair_sampling": sampling}

    _, val, report = build(options, tokenizer)

    assert (report.val.n_tokens, report.val.symbols_per_answer) == (15 * 32, 32)
    assert report.val.uniform_accuracy == 0.5
    if sampling == "balanced":
        assert report.val.majority_accuracy == 0.5
    else:
        assert report.val.majority_accuracy > 0.9  # hardly any pair is a contact: the report says so
    assert {tokenizer.decode(one.answer.tolist()).strip("01") for one in val} == {""}
