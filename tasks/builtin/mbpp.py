"""MBPP: short Python problems, answered by code (Austin et al. 2021)."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.builtin.order import QuestionOrder
from tasks.candidate import Candidate, NotesSlot, Part
from tasks.config import (
    AnswerLimit,
    BatchSize,
    Data,
    HubData,
    NotedConfig,
    PromptFloor,
    PromptLimit,
    TrainCount,
    ValCount,
)
from tasks.errors import RowError
from tasks.rows import Columns, Row
from tasks.splits import Split
from tasks.task import Task

FULL_MBPP = HubData(
    repo="google-research-datasets/mbpp", config="full", train_split="train", val_split="test"
)
WHOLE_NUMBER = re.compile(r"\s*0*([0-9]{1,3})(?:\.0*)?\s*", re.ASCII)
TEST_IDS = range(11, 511)
TRAIN_IDS = range(601, 975)


class MbppConfig(NotedConfig):
    """Options of `mbpp`."""

    kind: Annotated[Literal["mbpp"], Field(description="mbpp")] = "mbpp"
    data: Annotated[Data, Field(description="MBPP, or rows like it.")] = Data(hub=FULL_MBPP)
    train: TrainCount = 800
    val: ValCount = 200
    batch_size: BatchSize = 1
    max_prompt_tokens: PromptLimit = 4096
    min_prompt_tokens: PromptFloor = 1536
    max_answer_tokens: AnswerLimit = 160
    order: QuestionOrder = "q_first"


class Mbpp(Task[MbppConfig]):
    """Problem and tests, notes, "Python solution:"; the answer is a new line and the code.

    One file is divided as MBPP's authors do, by task_id: training rows from 601-974 (374 rows), validation
    rows from the test part 11-510; all other rows serve as notes. Rows without such numbers are divided
    by hash. Line ends are normalised. Notes hold problem and tests of other rows, never code.
    """

    Config = MbppConfig
    summary: ClassVar[str] = "short Python problems with tests; answer: the code"
    columns = Columns(
        required={
            "problem": ("text", "prompt", "description"),
            "code": ("code", "canonical_solution", "completion"),
        },
        optional={"id": ("task_id", "id"), "tests": ("test_list",)},
    )

    def candidate(self, row: Row) -> Candidate:
        """Problem, tests and notes in the configured order."""
        problem, tests = row.text("problem").strip(), _tests(row)
        question = f"Problem:\n{problem}\n\n" + (f"Tests:\n{tests}\n\n" if tests else "")
        blocks: list[Part | NotesSlot] = [Part(question), NotesSlot(before="Notes:\n", after="\n\n")]
        if self.config.order == "q_after":
            blocks.reverse()
        return Candidate(
            id=row.id,
            content=f"{problem}\n{tests}",
            prompt=(*blocks, Part("Python solution:")),
            answer="\n" + row.text("code").strip("\n"),
            note=f"Problem: {problem}" + (f"\nTests: {tests}" if tests else ""),
        )

    def split_of(self, row: Row) -> Split:
        """MBPP's standard split where the row has one of MBPP's numbers."""
        number = _number(row.get("id"))
        if number is None:
            return super().split_of(row)
        if number in TRAIN_IDS:
            return Split.TRAIN
        return Split.VAL if number in TEST_IDS else Split.REST


def _number(value: object) -> int | None:
    """One of MBPP's numbers, also as text or as a float, as tables with gaps have it."""
    if isinstance(value, str):
        whole = WHOLE_NUMBER.fullmatch(value)
        value = int(whole.group(1)) if whole else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value not in range(1, 975):
        return None
    return int(value)


def _tests(row: Row) -> str:
    """The tests, one a line; "" where the row has none."""
    tests = row.get("tests")
    if tests is None:
        return ""
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise RowError("tests_not_text")
    return "\n".join(tests).replace("\r\n", "\n").strip()
