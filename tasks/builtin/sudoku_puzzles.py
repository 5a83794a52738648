"""Sudoku boards: solving, counting solutions, making full boards and blanking cells.

A board is a string of size x size digits in reading order, 0 for a blank. The solver keeps one bit set
of cells for each digit (where it may still stand), so that a rule is a few operations on integers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from math import isqrt

# over five times what the hardest of 4,000 real puzzles with 17 clues needs (a test looks)
MOST_GUESSES = 20_000


class TooHard(Exception):
    """A board whose solutions are not found within MOST_GUESSES."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Rows, columns and boxes of a board, as bit sets of cells."""

    size: int
    all_cells: int
    units: tuple[int, ...]
    peers: tuple[int, ...]  # for each cell, the other cells of its three units


@cache
def geometry(size: int) -> Geometry:
    """The geometry of a size x size board; size is a square number."""
    box, span = isqrt(size), range(size)
    groups = [[(row, col) for col in span] for row in span]
    groups += [[(row, col) for row in span] for col in span]
    groups += [
        [(top + down, left + right) for down in range(box) for right in range(box)]
        for top in range(0, size, box)
        for left in range(0, size, box)
    ]
    units = tuple(sum(1 << (row * size + col) for row, col in group) for group in groups)
    peers = []
    for cell in range(size * size):
        around = 0
        for unit in units:
            if unit >> cell & 1:
                around |= unit
        peers.append(around & ~(1 << cell))
    return Geometry(size, (1 << size * size) - 1, units, tuple(peers))


def solutions(board: str, size: int, rng: random.Random | None = None) -> Iterator[str]:
    """All solutions of `board`, one by one; with `rng`, branches are tried in random order."""
    return (_as_text(places, size) for places in _solved(board, size, rng))


def is_unique(board: str, size: int) -> bool:
    """Whether `board` has exactly one solution."""
    return len(list(islice(_solved(board, size), 2))) == 1


def random_board(size: int, rng: random.Random) -> str:
    """A full board."""
    while True:
        # of 4x4 diagonals, one in two has no solution
        if board := next(solutions(_diagonal_boxes(size, rng), size, rng), None):
            return board


def _diagonal_boxes(size: int, rng: random.Random) -> str:
    """A board with the boxes on its diagonal filled: they do not see each other."""
    box = isqrt(size)
    symbols = ["0"] * (size * size)
    for corner in range(0, size, box):
        for place, digit in enumerate(rng.sample(range(1, size + 1), size)):
            row, col = corner + place // box, corner + place % box
            symbols[row * size + col] = str(digit)
    return "".join(symbols)


def _solved(board: str, size: int, rng: random.Random | None = None) -> Iterator[list[int]]:
    """Solutions as sets of cells, by digit; raises TooHard."""
    grid = geometry(size)
    fixed = [0] * size
    given = 0
    for cell, symbol in enumerate(board):
        if symbol != "0":
            fixed[int(symbol) - 1] |= 1 << cell
            given |= 1 << cell
    places = [cells | (grid.all_cells & ~given) for cells in fixed]
    return _search(grid, places, grid.all_cells, rng, count(1))


def _search(
    grid: Geometry, places: list[int], unplaced: int, rng: random.Random | None, guesses: Iterator[int]
) -> Iterator[list[int]]:
    """Solutions that agree with `places` (digit -> cells); cells of `unplaced` are not propagated yet."""
    remaining = _propagate(grid, places, unplaced)
    if remaining is None:
        return
    if not remaining:
        yield places
        return
    cell = _tightest(places, remaining)
    digits = [digit for digit, cells in enumerate(places) if cells & cell]
    if rng is not None:
        rng.shuffle(digits)
    for digit in digits:
        if next(guesses) > MOST_GUESSES:
            raise TooHard
        tried = [cells if other == digit else cells & ~cell for other, cells in enumerate(places)]
        yield from _search(grid, tried, remaining, rng, guesses)


def _propagate(grid: Geometry, places: list[int], unplaced: int) -> int | None:
    """Places all singles, in `places`; the cells that stay open, or None at a contradiction."""
    while True:
        once = twice = 0
        for cells in places:
            twice |= once & cells
            once |= cells
        if once != grid.all_cells:
            return None
        singles = once & ~twice & unplaced
        if singles:
            _place(grid, places, singles)
            unplaced &= ~singles
        elif not unplaced:
            return 0
        elif (progress := _hidden_singles(grid, places, unplaced)) is None:
            return None
        elif not progress:
            return unplaced


def _place(grid: Geometry, places: list[int], singles: int) -> None:
    """Takes the digit of each single cell from that cell's peers."""
    for digit, cells in enumerate(places):
        todo = cells & singles
        while todo:
            cell = todo & -todo
            todo ^= cell
            places[digit] &= ~grid.peers[cell.bit_length() - 1]


def _hidden_singles(grid: Geometry, places: list[int], unplaced: int) -> bool | None:
    """Gives a cell the digit that has no other cell in a unit; None where a digit has no cell at all."""
    progress = False
    for digit in range(grid.size):
        for unit in grid.units:
            cells = places[digit] & unit
            if not cells:
                return None
            if cells & (cells - 1) == 0 and cells & unplaced:
                for other in range(grid.size):
                    if other != digit and places[other] & cells:
                        places[other] &= ~cells
                        progress = True
    return progress


def _tightest(places: list[int], remaining: int) -> int:
    """The bit of an open cell with two candidates, or else of the one with the fewest."""
    once = twice = more = 0
    for cells in places:
        more |= twice & cells
        twice |= once & cells
        once |= cells
    pairs = remaining & twice & ~more
    if pairs:
        return pairs & -pairs
    bits = (1 << cell for cell in range(remaining.bit_length()) if remaining >> cell & 1)
    return min(bits, key=lambda bit: sum(1 for cells in places if cells & bit))


def _as_text(places: list[int], size: int) -> str:
    board = [0] * (size * size)
    for digit, cells in enumerate(places, start=1):
        while cells:
            cell = cells & -cells
            cells ^= cell
            board[cell.bit_length() - 1] = digit
    return "".join(map(str, board))


def blank(board: str, cells: Sequence[int]) -> str:
    """`board` with these cells blank."""
    symbols = list(board)
    for cell in cells:
        symbols[cell] = "0"
    return "".join(symbols)


def dig(board: str, size: int, order: Sequence[int], count: int) -> str | None:
    """`board` with `count` cells of `order` blank and one solution, earlier cells preferred; None if the
    first attempt at each cell does not get that far.

    Blanks are made in bunches. Where a bunch leaves more than one solution it is halved, down to the one
    cell that has to stay: fewer blanks never have more solutions.
    """
    start, bunch = 0, count - board.count("0")
    while (missing := count - board.count("0")) > 0:
        if start >= len(order):
            return None
        cells = order[start : start + min(bunch, missing)]
        attempt = blank(board, cells)
        if is_unique(attempt, size):
            board, start = attempt, start + len(cells)
        elif len(cells) == 1:
            start += 1
        else:
            bunch = len(cells) // 2
    return board
