"""What the protein kinds share: options, checks of a chain, and the layout around sequence and question."""

from __future__ import annotations

import random
from typing import Annotated, TypeVar

from pydantic import Field

from tasks.builtin.order import QuestionOrder
from tasks.candidate import NotesSlot, Part
from tasks.config import AnswerLimit, BatchSize, Count, NotedConfig, Notes, PromptFloor, PromptLimit
from tasks.errors import RowError
from tasks.rows import Row
from tasks.splits import Split, hashed_split
from tasks.task import Task


class ProteinNotes(Notes):
    """Notes made of other chains."""

    max_residues: Annotated[Count, Field(description="Residues of a chain that a note shows.")] = 256


SequenceLimit = Annotated[
    Count, Field(description="Longest sequence, in residues; of longer ones a random stretch is used.")
]


class ProteinConfig(NotedConfig):
    """Options that the protein kinds share."""

    batch_size: BatchSize = 2
    max_prompt_tokens: PromptLimit = 2048
    min_prompt_tokens: PromptFloor = 1024
    max_answer_tokens: AnswerLimit = 128
    order: QuestionOrder = "q_first"
    notes: Annotated[ProteinNotes, Field(description="Filler between question and answer.")] = ProteinNotes()
    min_sequence: Annotated[Count, Field(description="Shortest sequence, in residues.")] = 96
    max_sequence: SequenceLimit


ConfigT = TypeVar("ConfigT", bound=ProteinConfig)


class ProteinTask(Task[ConfigT]):
    """A task about one chain; its rows have a column `sequence`."""

    def split_of(self, row: Row) -> Split:
        """By hash of the sequence, so that equal sequences share a split."""
        return hashed_split(str(row.get("sequence")))

    def sequence(self, row: Row) -> str:
        """The chain's residues in upper-case letters; RowError where it has others or is too short."""
        sequence = row.text("sequence").strip().upper()
        if not (sequence.isascii() and sequence.isalpha()):
            raise RowError("sequence_not_letters")
        if len(sequence) < self.config.min_sequence:
            raise RowError("sequence_too_short")
        return sequence

    def stretch(self, sequence: str, rng: random.Random) -> slice:
        """The residues that are shown: all, or `max_sequence` of them from a random start."""
        start = rng.randrange(max(1, len(sequence) - self.config.max_sequence + 1))
        return slice(start, start + self.config.max_sequence)

    def note(self, row: Row, sequence: str) -> str:
        """The beginning of a chain as a note in other prompts."""
        return f"Protein note {row.id}".rstrip() + f": {sequence[: self.config.notes.max_residues]}"

    def layout(
        self, *, instruction: str, sequence: str, question: str, answer_label: str
    ) -> tuple[Part | NotesSlot, ...]:
        """Instruction, sequence with question, notes, label; q_after: the notes come before the sequence."""
        chain = (Part("Sequence:\n"), Part(sequence, symbols=True), Part(f"\n\n{question}\n\n"))
        notes = NotesSlot(before="Notes:\n", after="\n\n")
        body = (*chain, notes) if self.config.order == "q_first" else (notes, *chain)
        return (Part(instruction), *body, Part(answer_label))
