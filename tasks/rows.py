"""Rows of a table under the names a task uses, whatever the file calls its columns."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.errors import DataError, RowError, shown

MOST_SHOWN = 12  # columns that a message lists


@dataclass(frozen=True)
class Columns:
    """The columns a task reads: its own name for each -> the names that files use, best first."""

    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"id": ("id",)})

    def __post_init__(self) -> None:
        for own, aliases in (*self.required.items(), *self.optional.items()):
            if isinstance(aliases, str) or not all(isinstance(name, str) for name in (own, *aliases)):
                raise TypeError(f"column {own!r}: expected a tuple of names, not {aliases!r}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row, by the task's column names."""

    values: Mapping[str, object]

    def get(self, name: str) -> object:
        """The value as the file has it; None where there is none."""
        return self.values.get(name)

    def text(self, name: str) -> str:
        """The value as text with Unix line ends; RowError where it is missing, blank or no text."""
        value = self.values.get(name)
        if value is None:
            raise RowError(f"no_{name}")
        if not isinstance(value, str):
            raise RowError(f"{name}_not_text")
        if not value.strip():
            raise RowError(f"no_{name}")
        return value.replace("\r\n", "\n")

    @property
    def id(self) -> str:
        """The value of the column `id` as text; "" where there is none, or a NaN, as tables with gaps have it."""
        value = self.values.get("id")
        is_nan = isinstance(value, float) and math.isnan(value)
        return "" if value is None or is_nan else str(value)

    @property
    def key(self) -> str:
        """What tells this row from others: its id, or else all it holds."""
        return self.id or json.dumps(dict(self.values), sort_keys=True, default=str)


def bind(columns: Columns, rows: Sequence[Mapping[str, object]], source: str) -> list[Row]:
    """`rows` under the task's names; DataError names a required column that `source` lacks."""
    found = list(dict.fromkeys(name for row in rows for name in row))
    names = {own: _choose(own, aliases, found, source) for own, aliases in columns.required.items()}
    for own, aliases in columns.optional.items():
        if alias := next((alias for alias in aliases if alias in found), None):
            names[own] = alias
    return [Row({own: row.get(name) for own, name in names.items()}) for row in rows]


def _choose(own: str, aliases: tuple[str, ...], found: list[str], source: str) -> str:
    for alias in aliases:
        if alias in found:
            return alias
    wanted, there = " or ".join(map(shown, aliases)), ", ".join(map(shown, found[:MOST_SHOWN]))
    more = f" and {len(found) - MOST_SHOWN:,} more" if len(found) > MOST_SHOWN else ""
    message = f"{source}: no column for {own}: expected {wanted}, found {there}{more}"
    raise DataError(message + suggestion(aliases, found))


def suggestion(wanted: Iterable[str], known: Sequence[str]) -> str:
    """` (did you mean X?)` for the known name nearest to any of `wanted`; "" if none is near."""
    for name in wanted:
        if near := difflib.get_close_matches(name, known, n=1):
            return f" (did you mean {shown(near[0])}?)"
    return ""
