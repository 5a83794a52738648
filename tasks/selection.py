"""Which rows become examples: the first that pass all filters, in a seeded order, none of them twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tasks.candidate import Candidate
from tasks.encoding import Draft
from tasks.errors import RowError
from tasks.rows import Row
from tasks.splits import Split

# The predecessor's data seeds; fixed, so that all arms and rounds see the same rows.
ORDER_SEEDS = {Split.TRAIN: 0, Split.VAL: 1234}
MOST_REASONS = 50  # for which rows are dropped, that are told apart


@dataclass(slots=True)
class Chosen:
    """The outcome for one split."""

    split: Split
    wanted: int
    to_pass: int = 0  # accepted ones that are yet to be passed over, before the first is kept
    drafts: list[Draft] = field(default_factory=list)
    rows_read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Whether there are as many examples as wanted."""
        return len(self.drafts) == self.wanted

    def add(self, draft: Draft) -> None:
        """Keeps an example, or passes over it."""
        if self.to_pass:
            self.to_pass -= 1
            self.dropped["passed_over"] += 1
        else:
            self.drafts.append(draft)

    def drop(self, reason: str) -> None:
        """Counts a row that was dropped; a reason that would be one too many, as "other"."""
        is_told = reason in self.dropped or len(self.dropped) < MOST_REASONS
        self.dropped[reason if is_told else "other"] += 1


class Used:
    """Ids, contents and prompts that are taken, and by which split."""

    def __init__(self) -> None:
        self._ids: dict[str, Split] = {}
        self._contents: dict[str, Split] = {}
        self._prompts: dict[str, Split] = {}

    def check(self, candidate: Candidate, split: Split) -> None:
        """RowError where the id, the content or the prompt is taken already."""
        for taken, key, reason in (
            (self._contents, candidate.key, "duplicate_content"),
            (self._prompts, candidate.prompt_key, "duplicate_content"),
            (self._ids, candidate.name, "duplicate_id"),
        ):
            if key in taken:
                raise RowError(reason if taken[key] is split else f"in_{taken[key]}")

    def add(self, candidate: Candidate, split: Split) -> None:
        """Takes id, content and prompt for `split`."""
        self._ids[candidate.name] = split
        self._contents[candidate.key] = split
        self._prompts[candidate.prompt_key] = split


def shuffled(rows: Iterable[Row], seed: int | str) -> list[Row]:
    """Rows in the order of `seed`."""
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order


def select(
    chosen: Chosen,
    rows: Iterator[Row],
    wanted: int,
    *,
    draft: Callable[[Row], Draft],
    used: Used,
    patience: int | None = None,
) -> None:
    """Adds the next examples to `chosen`, as many as wanted if there are; takes no row that it does not need.

    Gives up after `patience` dropped rows in a row, for endless rows.
    """
    failures = 0
    while wanted and failures != patience and (row := next(rows, None)) is not None:
        chosen.rows_read += 1
        try:
            accepted = draft(row)
        except RowError as error:
            chosen.drop(error.reason)
            failures += 1
            continue
        used.add(accepted.candidate, chosen.split)
        chosen.add(accepted)
        wanted -= 1
        failures = 0
