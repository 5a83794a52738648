"""Which records belong together: variants with their baselines, and one stage with the next."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

from orchestrator.history.entries import Decision, History, LedgerRow, Run

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

Setting = tuple[str, str, int | None, int | None]


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items that have a key in common, in the order in which they come."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def setting_of(run: Run) -> Setting:
    """What variant and baseline must share: round, task, seed and batch size."""
    return run.round, run.task, run.seed, run.batch_size


def base_task(task: str) -> str:
    """A task's name without its seed and what follows: arc_mc of arc_mc_seed3_discovery."""
    return re.sub(r"_?seed-?\d+.*$", "", task) or task


def family_of(run: Run) -> str:
    """What tasks that differ in their seed have in common; an own task, whatever it is called, is itself."""
    return run.task if run.is_own else base_task(run.task)


def labelled_seed(task: str) -> int | None:
    """The seed in a task's name."""
    found = re.search(r"seed(\d{1,9})(?!\d)", task)
    return int(found[1]) if found else None


def name_of(record: Run | Decision | LedgerRow) -> str:
    """round 22 sudoku4_refine."""
    return f"round {record.round} {record.task}"


def arm_name(record: Run | Decision) -> str:
    """round 27 mbpp_low med seed 0."""
    return f"{name_of(record)} {record.stage}{seed_in_words(record)}"


def in_words(record: Run | Decision) -> str:
    """round 27 mbpp_low med head_l8 seed 0."""
    return f"{name_of(record)} {record.stage} {record.config}{seed_in_words(record)}"


def seed_in_words(record: Run | Decision) -> str:
    """With a space before it; nothing where there is no seed, or where the task's name has it."""
    named = record.seed is None or labelled_seed(record.task) == record.seed
    return "" if named else f" seed {record.seed}"


class Comparison(NamedTuple):
    """A measured variant and the measured baseline of the same setting and stage."""

    variant: Run
    baseline: Run

    @property
    def delta(self) -> float:
        """Of the accuracies, a fraction."""
        return self.variant.score - self.baseline.score

    @property
    def is_identical(self) -> bool:
        """Bit for bit, in loss as in accuracy."""
        return self.variant.loss is not None and result_of(self.variant) == result_of(self.baseline)

    @property
    def records(self) -> tuple[str, str]:
        return self.variant.source, self.baseline.source


def result_of(run: Run) -> tuple[float | None, float | None]:
    return run.loss, run.accuracy


def baselines(runs: Iterable[Run]) -> dict[tuple[Setting, str], Run]:
    """The first measured baseline of every setting and stage."""
    found: dict[tuple[Setting, str], Run] = {}
    for run in runs:
        if run.is_baseline and run.is_measured:
            found.setdefault((setting_of(run), run.stage), run)
    return found


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """Every measured variant that has a measured baseline of its own setting and stage."""
    known = baselines(runs)
    return [
        Comparison(run, known[setting_of(run), run.stage])
        for run in runs
        if run.is_measured and run.is_variant and (setting_of(run), run.stage) in known
    ]


def stages(runs: Iterable[Run]) -> dict[str, list[str]]:
    """The stages of every round that measured anything, in the order in which they appear."""
    found: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        if run.is_measured and run.stage not in found[run.round]:
            found[run.round].append(run.stage)
    return dict(found)


def first_stages(runs: Iterable[Run]) -> dict[str, str]:
    """The stage at which every round that measured anything began."""
    return {name: all_[0] for name, all_ in stages(runs).items()}


class Step(NamedTuple):
    """A variant's delta at one stage and at the next, both against a baseline of their own stage."""

    task: str
    family: str
    earlier: float  # fractions
    later: float
    records: tuple[str, ...]


def steps_of_runs(runs: Sequence[Run]) -> list[Step]:
    """Every variant that was measured at two stages in a row; runs that only repeat others count once."""
    following = {
        (name, first): second for name, all_ in stages(runs).items() for first, second in pairwise(all_)
    }
    later = {
        (setting_of(each.variant), each.variant.stage, each.variant.config): each
        for each in comparisons(runs)
    }
    found: dict[object, Step] = {}
    for (setting, stage, config), first in later.items():
        second = later.get((setting, following.get((setting[0], stage), ""), config))
        if second is not None:
            family = family_of(first.variant)
            records = first.records + second.records
            results = tuple(result_of(run) for run in (*first, *second))
            # fsq answers variants that compute the same from one run; the predecessor ran them
            name = None if first.variant.is_own else config
            found.setdefault(
                (name, results), Step(first.variant.task, family, first.delta, second.delta, records)
            )
    return list(found.values())


def steps_of_ledger(rows: Iterable[LedgerRow]) -> list[Step]:
    """Every row of the ledger that has both deltas."""
    return [
        Step(row.task, row.family, row.quick_delta, row.med_delta, (row.source,))
        for row in rows
        if row.med_delta is not None
    ]


def populations(history: History) -> list[tuple[str, list[Step]]]:
    """The steps of the ledger and those of the records, which are kept apart: many stand in both."""
    both = [("ledger", steps_of_ledger(history.ledger)), ("records", steps_of_runs(history.runs))]
    return [(name, steps) for name, steps in both if steps]
