"""Protein secondary structure: the DSSP state of queried residues (Kabsch and Sander 1983)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.builtin.protein import ProteinConfig, ProteinTask, SequenceLimit
from tasks.builtin.regions import Region, choose_positions
from tasks.candidate import Candidate
from tasks.config import Count, Data, HubData, TrainCount, ValCount
from tasks.errors import RowError
from tasks.rows import Columns, Row

PDB_CHAINS = HubData(repo="lamm-mit/protein_secondary_structure_from_PDB", split="train")

# blank in DSSP files; L: loop; newer DSSP: P, poly-proline
COILS = str.maketrans(dict.fromkeys("~-._ LP", "C"))
EIGHT_STATES = frozenset("HBEGITSC")
TO_THREE_STATES = str.maketrans({"G": "H", "I": "H", "B": "E", "T": "C", "S": "C"})


class ProteinSSConfig(ProteinConfig):
    """Options of `protein_ss`."""

    kind: Annotated[Literal["protein_ss"], Field(description="protein_ss")] = "protein_ss"
    data: Annotated[Data, Field(description="CB513 (CSV) or the hub's PDB chains.")] = Data(hub=PDB_CHAINS)
    train: TrainCount = 1600
    val: ValCount = 320
    max_sequence: SequenceLimit = 512
    queries: Annotated[Count, Field(description="Residues asked about.")] = 48
    query_region: Annotated[
        Region, Field(description="Which residues: the first, the last, or any at random.")
    ] = "random"
    states: Annotated[
        Literal[3, 8], Field(description="DSSP's eight states, or helix, strand and coil (H, E, C).")
    ] = 8


class ProteinSS(ProteinTask[ProteinSSConfig]):
    """Instructions, sequence, queried positions (from 1), notes, "Answer:"; the answer: their states.

    Reads CB513 (input, dssp3, dssp8) and the hub's layout (PDB_ID, Sequence, Secondary_structure). One
    token a residue and a state. Coil is C, however the file writes it. Undivided data are divided by the
    hash of the sequence.
    """

    Config = ProteinSSConfig
    summary: ClassVar[str] = "secondary structure of queried residues; answer: one DSSP state each"
    advice: ClassVar[Mapping[str, str]] = {
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
        whole = self.sequence(row)
        structure = self._structure(row, len(whole))
        rng = self.rng(whole)
        stretch = self.stretch(whole, rng)
        sequence, structure = whole[stretch], structure[stretch]
        if len(sequence) < self.config.queries:
            raise RowError("fewer_residues_than_queries")
        positions = choose_positions(rng, len(sequence), self.config.queries, self.config.query_region)
        states = "H, E or C" if self.config.states == 3 else "H, B, E, G, I, T, S or C"
        return Candidate(
            id=row.id,
            content=whole,
            prompt=self.layout(
                instruction=f"Give the secondary structure (DSSP: {states}) of the queried residues of a "
                "protein.\nWrite one symbol for each queried residue, in the order of the queries.\n\n",
                sequence=sequence,
                question="Queries(1-based):\n" + ",".join(str(position + 1) for position in positions),
                answer_label="Answer:",
            ),
            answer="".join(structure[position] for position in positions),
            choices=self.config.states,
            note=self.note(row, whole),
        )

    def _structure(self, row: Row, length: int) -> str:
        """The states of a chain of `length` residues, checked."""
        structure = row.get("structure")
        if not structure:
            raise RowError("no_structure")
        if not isinstance(structure, str):
            raise RowError("structure_not_text")
        structure = structure.rstrip("\r\n").translate(COILS)  # blanks are states
        if len(structure) != length:
            raise RowError("lengths_differ")
        if not EIGHT_STATES.issuperset(structure):
            raise RowError("unknown_state")
        return structure.translate(TO_THREE_STATES) if self.config.states == 3 else structure
