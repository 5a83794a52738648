"""Variants that computed the same as the baseline, or as each other, and exact ties in accuracy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from orchestrator.audit.comparisons import (
    Comparison,
    arm_name,
    comparisons,
    grouped,
    in_words,
    result_of,
    setting_of,
)
from orchestrator.audit.finding import Check, Finding, listed, percent, share
from orchestrator.history.entries import History, LedgerRow, Run


def judge(history: History, layers: int) -> Iterator[Finding]:
    """No-ops and ties; `layers` are those of the predecessor's model, beyond which a variant does nothing.

    fsq measures no variant that does nothing on the round's model, whatever it is called.
    """
    compared = comparisons(history.runs)
    yield from _no_ops(compared, layers)
    yield from _equal_variants(history.runs)
    yield from _ties(compared)
    yield from _zero_rows(history.ledger)


def layer_start(config: str) -> int | None:
    """The first layer in a configuration's name: 12 of scalar_l12_sched_cos."""
    found = re.search(r"(?:^|_)l(\d{1,4})(?=_|$)", config)
    return int(found[1]) if found else None


def _no_ops(compared: Sequence[Comparison], layers: int) -> Iterator[Finding]:
    for each in compared:
        what = in_words(each.variant)
        start = None if each.variant.is_own else layer_start(each.variant.config)
        beyond = start is not None and start >= layers
        if each.is_identical:
            why = f": the model has {layers} layers, so it seeds none" if beyond else ""
            text = f"{what} is the baseline, bit for bit in loss and accuracy{why}"
            yield Finding(Check.NO_OPS, text, each.records, {"layer_start": start})
        elif beyond:
            text = f"{what} differs from the baseline, though a model of {layers} layers has no such layer"
            yield Finding(Check.NO_OPS, text, each.records, {"layer_start": start})


def _equal_variants(runs: Sequence[Run]) -> Iterator[Finding]:
    variants = [run for run in runs if run.is_measured and run.is_variant and run.loss is not None]
    for group in grouped(variants, lambda run: (setting_of(run), run.stage, result_of(run))).values():
        by_name = {name: same[0] for name, same in grouped(group, lambda run: run.config).items()}
        if len(by_name) > 1:
            text = f"{arm_name(group[0])}: {' and '.join(by_name)} are one variant, bit for bit"
            yield Finding(Check.NO_OPS, text, [run.source for run in by_name.values()])


def _ties(compared: Sequence[Comparison]) -> Iterator[Finding]:
    """Equal accuracies with different losses: the answers did not change."""
    groups = grouped(compared, lambda each: (setting_of(each.variant), each.variant.stage))
    ties = 0
    for group in groups.values():
        tied = [each for each in group if each.delta == 0 and not each.is_identical]
        ties += len(tied)
        if tied:
            first = tied[0].variant
            text = (
                f"{arm_name(first)}: {share(len(tied), len(group))} variants tie with the baseline at "
                f"{percent(first.score, 4)} exactly, though their losses differ"
            )
            records = [tied[0].baseline.source, *(each.variant.source for each in tied)]
            yield Finding(Check.NO_OPS, text, records, {"ties": len(tied), "variants": len(group)})
    if ties:
        text = f"{share(ties, len(compared))} comparisons tie exactly in accuracy and not in loss"
        records = [each.variant.source for each in compared if each.delta == 0 and not each.is_identical]
        yield Finding(Check.NO_OPS, text, records, {"ties": ties, "comparisons": len(compared)})


def _zero_rows(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    stages = (
        ("quick", [row for row in rows if row.quick_delta == 0], len(rows)),
        (
            "med",
            [row for row in rows if row.med_delta == 0],
            sum(row.med_delta is not None for row in rows),
        ),
    )
    for stage, zero, whole in stages:
        if zero:
            counts = Counter(row.family for row in zero)
            families = listed([f"{family} {count}" for family, count in counts.most_common()], 10)
            yield Finding(
                Check.NO_OPS,
                f"ledger: {share(len(zero), whole)} {stage} deltas are exactly zero ({families})",
                [row.source for row in zero],
                {"zero": len(zero), "rows": whole, **counts},
            )
