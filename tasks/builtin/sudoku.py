"""Sudoku: fill in the blank cells of a board that has exactly one solution."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.builtin import sudoku_puzzles as puzzles
from tasks.builtin.regions import Region, choose_positions
from tasks.candidate import Candidate, Part
from tasks.config import AnswerLimit, BatchSize, Count, Data, PromptLimit, TaskConfig, TrainCount, ValCount
from tasks.errors import RowError
from tasks.rows import Columns, Row
from tasks.splits import Split
from tasks.task import Task

DEFAULT_BLANKS = {4: 8, 9: 40}
# where they lie side by side: with 7 of 16 most boards have several solutions
BLANKS_ON_END = {4: 6, 9: 17}
MOST_BLANKS = {4: 12, 9: 64}  # no puzzle has fewer than 17 clues (McGuire et al. 2014), or 4 of 16
MOST_GENERATED = 57  # of 81: hardly a board can be dug further, and each that cannot takes its time
FEW_BOARDS = (
    "use mask_region: random, and more blanks, or fewer examples (of 4x4 there are only 288 full boards)"
)


class SudokuConfig(TaskConfig):
    """Options of `sudoku`."""

    kind: Annotated[Literal["sudoku"], Field(description="sudoku")] = "sudoku"
    data: Annotated[
        Data | None,
        Field(description="Puzzles, one a line of 81 or 16 characters, 0 or . for a blank; else generated."),
    ] = None
    train: TrainCount = 1000
    val: ValCount = 200
    batch_size: BatchSize = 8
    max_prompt_tokens: PromptLimit = 128
    max_answer_tokens: AnswerLimit = 81
    size: Annotated[Literal[4, 9], Field(description="Cells in a row.")] = 9
    blanks: Annotated[
        Count,
        Field(description="Blank cells; if not given, 40 of 81 or 8 of 16, as a prefix or suffix 17 or 6."),
    ] = DEFAULT_BLANKS[9]
    mask_region: Annotated[
        Region, Field(description="Which cells are blank: the first, the last, or any at random.")
    ] = "random"

    @model_validator(mode="before")
    @classmethod
    def _default_blanks(cls, options: Any) -> Any:
        if not isinstance(options, Mapping) or "blanks" in options:
            return options
        size = 4 if options.get("size") == 4 else 9
        is_anywhere = options.get("mask_region", "random") == "random"
        return {**options, "blanks": (DEFAULT_BLANKS if is_anywhere else BLANKS_ON_END)[size]}

    @model_validator(mode="after")
    def _blanks_fit(self) -> Self:
        if self.blanks > MOST_BLANKS[self.size]:
            raise ValueError(
                f"blanks ({self.blanks}) exceeds {MOST_BLANKS[self.size]}: with more, no board of size "
                f"{self.size} has exactly one solution"
            )
        if self.size == 9 and self.blanks > MOST_GENERATED and self.data is None:
            raise ValueError(
                f"blanks ({self.blanks}) exceeds {MOST_GENERATED}: puzzles with fewer than "
                f"{81 - MOST_GENERATED} clues are too rare to be generated; give a file of them (data)"
            )
        return self


class Sudoku(Task[SudokuConfig]):
    """ "SUDOKU9|P=", the board with 0 for a blank, "|A="; the answer: the blanks' digits in reading order.

    Every puzzle has exactly one solution and exactly `blanks` blanks: an answer is right as a whole (sequence
    accuracy) just when it makes a valid board. No 9x9 solution is used twice. Of
    4x4 there are only 288 full boards, so there puzzles are distinct, but not solutions. A prefix or suffix
    has 17 blanks of 81 or 7 of 16 at most: with more no solution is the only one.
    """

    Config = SudokuConfig
    summary: ClassVar[str] = "sudoku with one solution; answer: the digits of the blank cells"
    columns = Columns(required={"puzzle": ("puzzle", "quizzes", "text")}, optional={})
    advice: ClassVar[Mapping[str, str]] = {
        "not_unique": "use fewer blanks or mask_region: random (two blank rows in a band of boxes can "
        "always be swapped)",
        "duplicate_content": FEW_BOARDS,
        "in_val": FEW_BOARDS,
    }

    def candidate(self, row: Row) -> Candidate:
        """A puzzle of the configured region and number of blanks on the row's solution."""
        given = row.text("puzzle").strip().replace(".", "0")
        try:
            solution = self._solve(given)
            puzzle = self._puzzle(given, solution, self.rng(f"{given}|{row.id}"))
        except puzzles.TooHard:
            raise RowError("too_hard_to_solve") from None
        return Candidate(
            id=hashlib.sha256(puzzle.encode()).hexdigest()[:16],
            content=solution if self.config.size == 9 else puzzle,
            prompt=(Part(f"SUDOKU{self.config.size}|P="), Part(puzzle, symbols=True), Part("|A=")),
            answer="".join(right for right, seen in zip(solution, puzzle, strict=True) if seen == "0"),
            choices=self.config.size,
        )

    def generate(self, split: Split) -> Iterator[Row]:
        """Full boards at random, another series for each split."""
        rng = random.Random(f"sudoku|{self.config.size}|{split}")
        numbers = count()  # a board that comes again gets other blanks
        while True:
            yield Row({"puzzle": puzzles.random_board(self.config.size, rng), "id": next(numbers)})

    def _solve(self, given: str) -> str:
        size = self.config.size
        if len(given) != size**2 or not set(given) <= set("0123456789"[: size + 1]):
            raise RowError(f"not_a_{size}x{size}_board")
        found = list(islice(puzzles.solutions(given, size), 2))
        if not found:
            raise RowError("no_solution")
        if len(found) > 1:
            raise RowError("several_solutions")
        return found[0]

    def _puzzle(self, given: str, solution: str, rng: random.Random) -> str:
        """Blanks on the solution: those of the file first, for they are known to leave one solution."""
        size, blanks = self.config.size, self.config.blanks
        if self.config.mask_region == "random":
            order = rng.sample(range(size**2), size**2)
            order.sort(key=lambda cell: given[cell] != "0")
            puzzle = puzzles.dig(solution, size, order, blanks)
        else:
            cells = choose_positions(rng, size**2, blanks, self.config.mask_region)
            puzzle = puzzles.blank(solution, cells)
            puzzle = puzzle if puzzles.is_unique(puzzle, size) else None
        if puzzle is None:
            raise RowError("not_unique")
        return puzzle
