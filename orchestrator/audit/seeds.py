"""One variant, one task, several seeds: up with one and down with another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestrator.audit.comparisons import comparisons, family_of, labelled_seed, name_of
from orchestrator.audit.finding import Check, Finding
from orchestrator.history.entries import History
from orchestrator.points import points
from orchestrator.statistics.seeds import TIE, sign_pattern

MOST_SHOWN = 5  # deltas spelled out; of more, the mean


class Delta(NamedTuple):
    """A variant's delta with one seed."""

    seed: int | None
    value: float  # a fraction
    records: tuple[str, ...]


def judge(history: History) -> Iterator[Finding]:
    """Groups of deltas over seeds with both signs in them."""
    groups: dict[tuple[str, ...], list[Delta]] = defaultdict(list)
    for each in comparisons(history.runs):
        run = each.variant
        task, seed = family_of(run), run.seed if run.seed is not None else labelled_seed(run.task)
        # an own or early round has its seeds within it; later ones of the predecessor spread them over rounds
        scope = (name_of(run),) if task == run.task else ("records:", task)
        batch = () if run.batch_size is None else (f"batch size {run.batch_size}",)
        groups[*scope, run.stage, run.config, *batch].append(Delta(seed, each.delta, each.records))
    for row in history.ledger:
        seed = labelled_seed(row.task)
        groups["ledger:", row.family, "quick", row.quick_config].append(
            Delta(seed, row.quick_delta, (row.source,))
        )
        if row.med_delta is not None:
            groups["ledger:", row.family, "med", row.med_config].append(
                Delta(seed, row.med_delta, (row.source,))
            )
    for name, deltas in groups.items():
        yield from _of(" ".join(name), _each_once(deltas))


def disagree(values: Sequence[float]) -> bool:
    """Whether some are up and some are down."""
    return any(value > TIE for value in values) and any(value < -TIE for value in values)


def _each_once(deltas: Sequence[Delta]) -> list[Delta]:
    """Without runs that only repeat another: the same seed and the same delta."""
    found: dict[tuple[int | None, float], Delta] = {}
    for delta in deltas:
        found.setdefault((delta.seed, delta.value), delta)
    return list(found.values())


def _of(name: str, deltas: Sequence[Delta]) -> Iterator[Finding]:
    values = [delta.value for delta in deltas]
    if len({delta.seed for delta in deltas}) < 2 or not disagree(values):
        return
    mean = sum(values) / len(values)
    shown = ", ".join(map(points, values)) if len(values) <= MOST_SHOWN else f"mean {points(mean)}"
    yield Finding(
        Check.SEEDS_DISAGREE,
        f"{name}: {sign_pattern(values)} ({shown})",
        [record for delta in deltas for record in delta.records],
        {
            "up": sum(value > TIE for value in values),
            "level": sum(abs(value) <= TIE for value in values),
            "down": sum(value < -TIE for value in values),
            "mean": mean,
        },
    )
