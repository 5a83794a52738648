from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from task_samples import Bytes

from tasks import BuildError, Example, build
from tasks.builtin import sudoku_puzzles as puzzles


def board(example: Example, size: int) -> str:
    text = bytes(example.prompt.tolist()).decode()
    assert text.startswith(f"SUDOKU{size}|P=")
    assert text.endswith("|A=")
    return text.removeprefix(f"SUDOKU{size}|P=").removesuffix("|A=")


def solved(example: Example, size: int) -> str:
    """The one solution, which the answer has to complete the board to."""
    puzzle = board(example, size)
    (solution,) = puzzles.solutions(puzzle, size)
    answer = iter(bytes(example.answer.tolist()).decode())
    assert "".join(next(answer) if symbol == "0" else symbol for symbol in puzzle) == solution
    assert next(answer, None) is None
    return solution


@pytest.mark.parametrize(
    ("size", "blanks", "region"),
    [
        (9, 40, "random"),
        (9, 50, "random"),
        (9, 15, "prefix"),
        (9, 15, "suffix"),
        (4, 8, "random"),
        (4, 10, "random"),
        (4, 6, "prefix"),
        (4, 6, "suffix"),
    ],
)
def test_build__generated(tokenizer: Bytes, size: int, blanks: int, region: str) -> None:
    options = {"kind": "sudoku", "size": size, "blanks": blanks, "mask_region": region, "train": 20, "val": 8}

    train, val, report = build(options, tokenizer)

    for example in [*train, *val]:
        puzzle = board(example, size)
        solved(example, size)
        assert puzzle.count("0") == blanks
        if region != "random":
            assert (puzzle[:blanks] if region == "prefix" else puzzle[-blanks:]) == "0" * blanks
    assert len({board(one, size) for one in [*train, *val]}) == 28
    if size == 9:
        assert len({solved(one, 9) for one in [*train, *val]}) == 28
    assert (report.source, report.val.symbols_per_answer) == ("generated", blanks)
    assert report.val.uniform_accuracy == pytest.approx(1 / size)


def is_valid(full: str, size: int) -> bool:
    """Whether every row, column and box holds every digit."""
    digits = set("123456789"[:size])
    units = puzzles.geometry(size).units
    return all({full[cell] for cell in range(size**2) if unit >> cell & 1} == digits for unit in units)


@pytest.mark.parametrize("size", [4, 9])
def test_build__only_the_answer_makes_a_valid_board(tokenizer: Bytes, size: int) -> None:
    rng = random.Random(3)
    for example in build({"kind": "sudoku", "size": size, "train": 20, "val": 5}, tokenizer)[0]:
        puzzle, right = board(example, size), bytes(example.answer.tolist()).decode()
        wrong = [right.replace("1", "2"), "".join(rng.sample(right, len(right))), right[::-1]]
        for answer in {right, *wrong}:
            cells = iter(answer)
            full = "".join(next(cells) if symbol == "0" else symbol for symbol in puzzle)
            assert is_valid(full, size) is (answer == right)


@pytest.mark.parametrize(
    ("size", "region", "blanks"),
    [
        (9, "random", 40),
        (9, "prefix", 17),
        (9, "suffix", 17),
        (4, "random", 8),
        (4, "prefix", 6),
        (4, "suffix", 6),
    ],
)
def test_build__as_many_blanks_as_the_region_allows_if_none_are_given(
    tokenizer: Bytes, size: int, region: str, blanks: int
) -> None:
    options = {"kind": "sudoku", "size": size, "mask_region": region, "train": 20, "val": 8}
    train, val, _ = build(options, tokenizer)

    assert {board(one, size).count("0") for one in [*train, *val]} == {blanks}


def test_build__four_times_four_has_more_puzzles_than_boards(tokenizer: Bytes) -> None:
    train, val, _ = build({"kind": "sudoku", "size": 4, "train": 500, "val": 50}, tokenizer)

    assert len({board(one, 4) for one in [*train, *val]}) == 550


@pytest.mark.parametrize(
    ("options", "reason", "advice"),
    [
        ({"size": 9, "blanks": 18, "mask_region": "prefix"}, "not_unique 1000", "use fewer blanks"),
        ({"size": 4, "blanks": 8, "mask_region": "suffix"}, "not_unique 1000", "use fewer blanks"),
        (
            {"size": 4, "blanks": 4, "mask_region": "prefix", "train": 300},
            "in_val",
            "use mask_region: random",
        ),
    ],
)
def test_build__impossible_request_ends(
    tokenizer: Bytes, options: dict[str, Any], reason: str, advice: str
) -> None:
    with pytest.raises(BuildError) as caught:
        build({"kind": "sudoku", "train": 5, "val": 5} | options, tokenizer)

    assert reason in str(caught.value)
    assert advice in str(caught.value)
    assert "give more data" not in str(caught.value)


def test_build__puzzles_that_are_too_rare_are_not_generated(tokenizer: Bytes) -> None:
    options = {"kind": "sudoku", "train": 5, "val": 5}
    build(options | {"blanks": 57}, tokenizer)
    with pytest.raises(ValidationError, match=r"blanks \(58\) exceeds 57: .*give a file of them \(data\)"):
        build(options | {"blanks": 58}, tokenizer)


def write_boards(path: Path, boards: list[str]) -> Path:
    path.write_text("\n".join(boards))
    return path


def test_build__from_lines(tmp_path: Path, tokenizer: Bytes) -> None:
    rng = random.Random(1)
    boards = [puzzles.random_board(9, rng) for _ in range(40)]
    given = [puzzles.blank(full, rng.sample(range(81), 10)).replace("0", ".") for full in boards]
    given = [puzzle for puzzle in given if puzzles.is_unique(puzzle.replace(".", "0"), 9)]
    data = {"path": write_boards(tmp_path / "boards.txt", given)}

    train, val, report = build(
        {"kind": "sudoku", "data": data, "train": 8, "val": 2, "blanks": 30}, tokenizer
    )

    assert {solved(one, 9) for one in [*train, *val]} < set(boards)
    assert {board(one, 9).count("0") for one in [*train, *val]} == {30}
    assert report.source.startswith("all.txt:sha256:")


@pytest.mark.parametrize(("size", "kept"), [(9, 2), (4, 4)])
def test_build__no_solution_of_nine_twice(tmp_path: Path, tokenizer: Bytes, size: int, kept: int) -> None:
    rng = random.Random(2)
    boards = [puzzles.random_board(size, rng) for _ in range(2)]
    lines = [puzzles.blank(board, [cell]) for board in boards for cell in (0, 1)]
    files = {
        "train": write_boards(tmp_path / "train.txt", lines),
        "val": write_boards(tmp_path / "val.txt", [puzzles.random_board(size, rng)]),
    }
    options = {"kind": "sudoku", "size": size, "data": files, "train": 9, "val": 1, "blanks": 1}

    with pytest.raises(BuildError, match=f"built {kept} of 9 train examples and 1 of 1 val"):
        build(options, tokenizer)


def test_build__drops_lines_that_are_no_puzzles(tmp_path: Path, tokenizer: Bytes) -> None:
    full = puzzles.random_board(4, random.Random(0))
    lines = [
        full,
        full[:-1],
        full.replace("1", "5"),
        "x" * 16,
        "11" + "0" * 14,
        "0" * 16,
        puzzles.blank(full, range(8)),
    ]
    files = {name: write_boards(tmp_path / f"{name}.txt", lines) for name in ("train", "val")}
    options = {
        "kind": "sudoku",
        "size": 4,
        "mask_region": "prefix",
        "data": files,
        "train": 9,
        "val": 9,
        "blanks": 8,
    }

    with pytest.raises(BuildError) as caught:
        build(options, tokenizer)

    for reason in ("not_a_4x4_board 3", "no_solution 1", "several_solutions 2", "not_unique 1"):
        assert reason in str(caught.value)


@pytest.mark.parametrize("blanks", [40, 64])
def test_build__real_puzzles_keep_their_own_blanks_blank(
    shared_data: Callable[[str], Path], tokenizer: Bytes, blanks: int
) -> None:
    path = shared_data("sudoku/sudoku17_sample.txt")
    options = {"kind": "sudoku", "data": {"path": path}, "train": 40, "val": 10, "blanks": blanks}

    train, val, _ = build(options, tokenizer)

    originals = set(path.read_text().split())
    for example in [*train, *val]:
        solved(example, 9)
        puzzle = board(example, 9)
        assert puzzle.count("0") == blanks
        assert (puzzle in originals) == (blanks == 64)
    assert len({solved(one, 9) for one in [*train, *val]}) == 50


def test_build__board_that_is_too_hard_is_dropped(tmp_path: Path, tokenizer: Bytes) -> None:
    hard = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."
    files = {name: write_boards(tmp_path / f"{name}.txt", [hard]) for name in ("train", "val")}

    with pytest.raises(BuildError, match="too_hard_to_solve 1"):
        build({"kind": "sudoku", "data": files}, tokenizer)
