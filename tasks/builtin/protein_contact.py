"""Protein contacts: which pairs of residues are near each other in space.

In contact: C-beta atoms (C-alpha for glycine) at most 8 angstrom apart, as CASP counts them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.builtin.protein import ProteinConfig, ProteinTask, SequenceLimit
from tasks.candidate import Candidate
from tasks.config import Count, Data, HubData, TrainCount, ValCount
from tasks.errors import RowError
from tasks.rows import Columns, Row

CONTACT_MAPS = HubData(repo="heya5/protein_contact_map", train_split="train", val_split="valid")

Coordinates = NDArray[np.float64]

NUMBERS = frozenset({int, float})
MAX_SEQUENCE = 4096  # distances take memory by its square


class ProteinContactConfig(ProteinConfig):
    """Options of `protein_contact`."""

    kind: Annotated[Literal["protein_contact"], Field(description="protein_contact")] = "protein_contact"
    data: Annotated[Data, Field(description="Chains with a coordinate a residue.")] = Data(hub=CONTACT_MAPS)
    train: TrainCount = 2000
    val: ValCount = 200
    max_sequence: Annotated[SequenceLimit, Field(le=MAX_SEQUENCE)] = 384
    pairs: Annotated[Count, Field(description="Pairs of residues asked about.")] = 32
    min_separation: Annotated[
        Count, Field(description="Least distance of a pair's residues along the chain.")
    ] = 8
    cutoff: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Farthest contact, in angstrom.")
    ] = 8.0
    pair_sampling: Annotated[
        Literal["random", "balanced"],
        Field(description="Any pairs, of which few are contacts, or `positive_ratio` of them contacts."),
    ] = "random"
    positive_ratio: Annotated[
        float, Field(ge=0, le=1, description="Share of contacts among balanced pairs.")
    ] = 0.5


class ProteinContact(ProteinTask[ProteinContactConfig]):
    """Instructions, sequence, pairs "i-j" (from 1), notes, "Answer bits:"; the answer: 1 for a contact, else 0.

    Coordinates are a point [x, y, z] a residue, in angstrom: `tertiary` (hub), `cb` (`ca` for glycine without
    one), or else `ca`. A residue without one (null, not finite, or marked so in `valid_mask`) is in the sequence but
    in no pair.
    Undivided data are divided by the hash of the sequence.
    """

    Config = ProteinContactConfig
    summary: ClassVar[str] = "which pairs of residues touch; answer: one bit a pair"
    columns = Columns(
        required={"sequence": ("seq", "sequence", "Sequence"), "points": ("tertiary", "cb", "ca")},
        optional={"id": ("name", "id"), "mask": ("valid_mask",), "ca": ("ca",)},
    )
    advice: ClassVar[Mapping[str, str]] = {
        "sequence_too_short": "lower min_sequence",
        "too_few_pairs": "lower pairs or min_separation",
        "too_few_contacts": "lower pairs, positive_ratio or min_separation, or raise cutoff",
        "too_few_non_contacts": "lower pairs, or raise positive_ratio",
    }

    def candidate(self, row: Row) -> Candidate:
        """Sequence, pairs and notes in the configured order."""
        whole = self.sequence(row)
        points = _points(row, whole)
        rng = self.rng(whole)
        stretch = self.stretch(whole, rng)
        asked, bits = self._sample(points[stretch], rng)
        listed = ",".join(f"{left + 1}-{right + 1}" for left, right in asked)
        return Candidate(
            id=row.id,
            content=whole,
            prompt=self.layout(
                instruction="Say which pairs of residues of a protein are in contact: "
                f"at most {self.config.cutoff:.15g} angstrom apart.\n"
                "Write one bit for each pair, in the order of the pairs.\n"
                "1 means contact, 0 means no contact.\n\n",
                sequence=whole[stretch],
                question=f"Pairs(1-based):\n{listed}",
                answer_label="Answer bits:",
            ),
            answer=bits,
            choices=2,
            note=self.note(row, whole),
        )

    def _sample(self, points: Coordinates, rng: random.Random) -> tuple[list[tuple[int, int]], str]:
        """The pairs asked about, ascending, and their bits."""
        distance = _distances(points)
        near = distance <= self.config.cutoff
        distant = np.triu(np.isfinite(distance), k=self.config.min_separation)  # along the chain
        if self.config.pair_sampling == "random":
            chosen = _draw(rng, distant, self.config.pairs, "too_few_pairs")
        else:
            contacts = round(self.config.pairs * self.config.positive_ratio)
            others = self.config.pairs - contacts
            chosen = np.concatenate(
                [
                    _draw(rng, distant & near, contacts, "too_few_contacts"),
                    _draw(rng, distant & ~near, others, "too_few_non_contacts"),
                ]
            )
        chosen.sort()
        asked = [divmod(pair, len(points)) for pair in chosen.tolist()]
        return asked, "".join("1" if contact else "0" for contact in near.ravel()[chosen])


def _points(row: Row, sequence: str) -> Coordinates:
    """A point for each residue, (length, 3) in angstrom; not a number where there is none."""
    length = len(sequence)
    beta, alpha = row.get("points"), row.get("ca")
    points = _given(alpha if beta is None else beta, length)
    lacks = (np.array([*sequence]) == "G") & ~np.isfinite(points).all(axis=1)
    if lacks.any() and alpha is not None:  # glycine has no C-beta
        points[lacks] = _given(alpha, length)[lacks]
    points[~(_mask(row.get("mask"), length) & np.isfinite(points).all(axis=1))] = np.nan
    return points


def _given(values: object, length: int) -> Coordinates:
    """A column of points, one for each residue."""
    if not isinstance(values, list):
        raise RowError("no_points" if values is None else "points_not_numbers")
    if len(values) != length:
        raise RowError("lengths_differ")
    return _numbers(values)


def _numbers(values: list[object]) -> Coordinates:
    """The points as an array; the slow way only where some are missing."""
    whole = all(
        isinstance(value, list) and len(value) == 3 and NUMBERS.issuperset(map(type, value))
        for value in values
    )
    try:
        return np.array(values if whole else [_point(value) for value in values], dtype=np.float64)
    except OverflowError:
        raise RowError("points_not_numbers") from None


def _point(value: object) -> tuple[float, float, float]:
    match value:
        case None | [None, _, _] | [_, None, _] | [_, _, None]:
            return (np.nan, np.nan, np.nan)
        case [float() | int() as x, float() | int() as y, float() | int() as z]:
            return (float(x), float(y), float(z))
        case _:
            raise RowError("points_not_numbers")


def _mask(mask: object, length: int) -> NDArray[np.bool_]:
    """Which residues have a point: all, or those that `valid_mask` marks with true, 1 or +."""
    if mask is None:
        return np.ones(length, dtype=np.bool_)
    if not isinstance(mask, (list, str)) or len(mask) != length:
        raise RowError("bad_mask")
    return np.array([mark in (True, "1", "+") for mark in mask], dtype=np.bool_)


def _distances(points: Coordinates) -> NDArray[np.float64]:
    """Euclidean distances in angstrom, (residues, residues); not a number where a point is missing."""
    with np.errstate(over="ignore"):
        squares = sum(np.subtract.outer(axis, axis) ** 2 for axis in points.T)
    return np.asarray(np.sqrt(squares))


def _draw(rng: random.Random, pairs: NDArray[np.bool_], count: int, reason: str) -> NDArray[np.intp]:
    """`count` of the marked pairs at random, as places in the flattened matrix."""
    places = np.flatnonzero(pairs)
    if len(places) < count:
        raise RowError(reason)
    return places[rng.sample(range(len(places)), count)]
