"""Protein secondary structure: the DSSP state of queried residues (Kabsch and Sander 1983)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.candidate import Candidate, NotesSlot, Part
from tasks.config import (
    AnswerLimit,
    BatchSize,
    Count,
    Data,
    HubData,
    NotedConfig,
    PromptFloor,
    PromptLimit,
    TrainCount,
    ValCount,
)
from tasks.errors import RowError
from tasks.builtin.regions import Region, choose_positions
from tasks.rows import Columns, Row
from tasks.splits import Split, hashed_split
from tasks.task import Task

PDB_CHAINS = HubData(repo="lamm-mit/protein_secondary_structure_from_PDB", split="train")

NOTE_RESIDUES = 256

COILS = str.maketrans(dict.fromkeys("~-. P", "C"))  # blank in DSSP files; newer DSSP: P, poly-proline
EIGHT_STATES = frozenset("HBEGITSC")
TO_THREE_STATES = str.maketrans({"G": "H", "I": "H", "B": "E", "T": "C", "S": "C"})


class ProteinSSConfig(NotedConfig):
    """Options of `protein_ss`."""

    kind: Annotated[Literal["protein_ss"], Field(description="protein_ss")] = "protein_ss"
    data: Annotated[Data, Field(description="CB513 (CSV) or the hub's PDB chains.")] = Data(hub=PDB_CHAINS)
    train: TrainCount = 1600
    val: ValCount = 320
    batch_size: BatchSize = 2
    max_prompt_tokens: PromptLimit = 2048
    min_prompt_tokens: PromptFloor = 1024
    max_answer_tokens: AnswerLimit = 128
    order: Annotated[
        Literal["q_after", "q_first"],
        Field(description="q_after: notes stand after sequence and queries; q_first: before them."),
    ] = "q_after"
    queries: Annotated[Count, Field(description="Residues asked about.")] = 48
    query_region: Annotated[
        Region, Field(description="Which residues: the first, the last, or any at random.")
    ] = "random"
    states: Annotated[
        Literal[3, 8], Field(description="DSSP's eight states, or helix, strand and coil (H, E, C).")
    ] = 8
    min_sequence: Annotated[Count, Field(description="Shortest sequence, in residues.")] = 96
    max_sequence: Annotated[
        Count, Field(description="Longest sequence, in residues; of longer ones a random stretch is used.")
    ] = 512


class ProteinSS(Task[ProteinSSConfig]):
    """Instructions, sequence, queried positions (from 1), notes, "Answer:"; the answer: their states.

    Reads CB513 (input, dssp3, dssp8) and the hub's layout (PDB_ID, Sequence, Secondary_structure). One
    token a residue and a state. Coil is C, however the file writes it. Undivided data are divided by the
    hash of the sequence.
    """

    Config = ProteinSSConfig
    summary: ClassVar[str] = "secondary structure of queried residues; answer: one DSSP state each"
    advice: ClassVar[dict[str, str]] = {
        "sequence_too_short": "lower min_sequence",
        "fewer_residues_than_queries": "lower queries",
    }

    @property
    def columns(self) -> Columns:
        """Sequence and structure; three states can be had from eight, not the other way round."""
        three = ("dssp3",) if self.config.states == 3 else ()
        return Columns(
            required={
                "sequence": ("Sequence", "input"),
                "structure": (*three, "dssp8", "Secondary_structure"),
            },
            optional={"id": ("PDB_ID", "id")},
        )

    def candidate(self, row: Row) -> Candidate:
        """Sequence, queries and notes in the configured order."""
        whole, structure = self._chain(row)
        rng = self.rng(whole)
        start = rng.randrange(max(1, len(whole) - self.config.max_sequence + 1))
        stretch = slice(start, start + self.config.max_sequence)
        sequence, structure = whole[stretch], structure[stretch]
        if len(sequence) < self.config.queries:
            raise RowError("fewer_residues_than_queries")
        positions = choose_positions(rng, len(sequence), self.config.queries, self.config.query_region)
        return Candidate(
            id=row.id,
            content=whole,
            prompt=self._layout(sequence, positions),
            answer="".join(structure[position] for position in positions),
            choices=self.config.states,
            note=f"Protein note {row.id}".rstrip() + f": {whole[:NOTE_RESIDUES]}",
        )

    def split_of(self, row: Row) -> Split:
        """By hash of the sequence, so that equal sequences share a split."""
        return hashed_split(str(row.get("sequence")))

    def _chain(self, row: Row) -> tuple[str, str]:
        """Sequence and states, checked."""
        sequence = row.text("sequence").strip().upper()
        structure = row.text("structure").translate(COILS)
        if not (sequence.isascii() and sequence.isalpha()):
            raise RowError("sequence_not_letters")
        if len(sequence) != len(structure):
            raise RowError("lengths_differ")
        if not EIGHT_STATES.issuperset(structure):
            raise RowError("unknown_state")
        if len(sequence) < self.config.min_sequence:
            raise RowError("sequence_too_short")
        return sequence, structure.translate(TO_THREE_STATES) if self.config.states == 3 else structure

    def _layout(self, sequence: str, positions: list[int]) -> tuple[Part | NotesSlot, ...]:
        asked = ",".join(str(position + 1) for position in positions)
        notes = NotesSlot(before="Notes:\n", after="\n\n")
        chain = (
            Part("Sequence:\n"),
            Part(sequence, symbols=True),
            Part(f"\n\nQueries(1-based):\n{asked}\n\n"),
        )
        states = "H, E or C" if self.config.states == 3 else "H, B, E, G, I, T, S or C"
        instruction = Part(
            f"Give the secondary structure (DSSP: {states}) of the queried residues of a protein.\n"
            "Write one symbol for each queried residue, in the order of the queries.\n\n"
        )
        body = (*chain, notes) if self.config.order == "q_after" else (notes, *chain)
        return (instruction, *body, Part("Answer:"))
