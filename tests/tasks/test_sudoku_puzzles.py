from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.builtin import sudoku_puzzles as puzzles

SIZES = st.sampled_from([4, 9])


def is_full(board: str, size: int) -> bool:
    """Rules checked cell by cell, in another way than the solver does."""
    box = round(size**0.5)
    cells = {(i // size, i % size): symbol for i, symbol in enumerate(board)}
    groups: dict[object, set[str]] = {}
    for (row, col), symbol in cells.items():
        for group in (("row", row), ("col", col), ("box", row // box, col // box)):
            groups.setdefault(group, set()).add(symbol)
    digits = set("123456789"[:size])
    return len(cells) == size**2 and all(members == digits for members in groups.values())


@given(SIZES, st.integers())
def test_random_board__is_full(size: int, seed: int) -> None:
    assert is_full(puzzles.random_board(size, random.Random(seed)), size)


def test_solutions__all_boards_of_four() -> None:
    boards = list(puzzles.solutions("0" * 16, 4))

    assert len(boards) == len(set(boards)) == 288
    assert all(is_full(board, 4) for board in boards)


def test_random_board__reaches_all_boards_of_four() -> None:
    rng = random.Random(0)

    assert len({puzzles.random_board(4, rng) for _ in range(4000)}) == 288


@pytest.mark.parametrize(
    "board",
    ["1100" + "0" * 12, "1000" * 2 + "0" * 8, "1230" + "0004" + "0" * 8, "0123" + "4000" + "0" * 8],
)
def test_solutions__contradiction_has_none(board: str) -> None:
    assert list(puzzles.solutions(board, 4)) == []
    assert not puzzles.is_unique(board, 4)


@given(st.integers(), st.integers(0, 16))
def test_is_unique__agrees_with_counting_over_all_boards(seed: int, blanks: int) -> None:
    rng = random.Random(seed)
    board = puzzles.blank(puzzles.random_board(4, rng), rng.sample(range(16), blanks))
    fits = [
        full
        for full in puzzles.solutions("0" * 16, 4)
        if all(symbol in ("0", right) for symbol, right in zip(board, full, strict=True))
    ]

    assert sorted(puzzles.solutions(board, 4)) == sorted(fits)
    assert puzzles.is_unique(board, 4) == (len(fits) == 1)


@given(SIZES, st.integers(), st.integers(0, 8))
def test_dig__exactly_so_many_blanks_and_one_solution(size: int, seed: int, blanks: int) -> None:
    rng = random.Random(seed)
    blanks *= 1 if size == 4 else 6
    board = puzzles.random_board(size, rng)

    puzzle = puzzles.dig(board, size, rng.sample(range(size**2), size**2), blanks)

    assert puzzle is not None
    assert puzzle.count("0") == blanks
    assert list(puzzles.solutions(puzzle, size)) == [board]


def test_dig__gives_up_when_no_cell_is_left() -> None:
    board = puzzles.random_board(4, random.Random(0))

    assert puzzles.dig(board, 4, range(16), 13) is None
    assert puzzles.dig(board, 4, range(3), 4) is None


def test_solutions__real_puzzles_have_one(shared_data: Callable[[str], Path]) -> None:
    with shared_data("sudoku/sudoku17_sample.txt").open() as lines:
        for line in islice(lines, 100):
            (solution,) = puzzles.solutions(line.strip(), 9)
            assert is_full(solution, 9)
            assert all(given in ("0", right) for given, right in zip(line.strip(), solution, strict=True))


def test_solutions__real_puzzles_are_far_below_the_limit(
    shared_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puzzles, "MOST_GUESSES", puzzles.MOST_GUESSES // 5)

    for puzzle in shared_data("sudoku/sudoku17_sample.txt").read_text().split():
        assert puzzles.is_unique(puzzle, 9)
