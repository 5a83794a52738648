"""One result under several names: runs that were run again, and later stages that repeat an earlier one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from orchestrator.audit.comparisons import grouped, labelled_seed, name_of, result_of, seed_in_words
from orchestrator.audit.finding import Check, Finding, listed, share
from orchestrator.history.entries import History, LedgerRow, Run
from worker.job import Outcome

Name = tuple[str, str]


def judge(history: History) -> Iterator[Finding]:
    """Duplicates among runs, then among rows of the ledger."""
    yield from _among_runs(history.runs)
    yield from _replays(history.runs)
    yield from _among_rows(history.ledger)
    yield from _replayed_rows(history.ledger)


def equal_results(runs: Sequence[Run]) -> list[list[Run]]:
    """Measured runs with the same loss and accuracy, bit for bit, in groups of two or more.

    Runs without a loss are left out: an accuracy alone is often equal by chance. So are results that fsq took
    from its store, which are equal by design.
    """
    ran = [run for run in runs if run.is_measured and run.loss is not None and run.status != Outcome.CACHED]
    return [group for group in grouped(ran, result_of).values() if len(group) > 1]


def _among_runs(runs: Sequence[Run]) -> Iterator[Finding]:
    groups = equal_results(runs)
    if not groups:
        return
    measured = sum(run.is_measured for run in runs)
    repeats = sum(len(group) - 1 for group in groups)
    across = [group for group in groups if len({(run.round, run.task) for run in group}) > 1]
    n_across = sum(len({(run.round, run.task) for run in group}) - 1 for group in across)
    yield Finding(
        Check.DUPLICATES,
        f"{share(repeats, measured)} measured runs repeat loss and accuracy of another run bit for bit; "
        f"{n_across} of them under another name or in another round",
        [run.source for group in groups for run in group],
        {"repeats": repeats, "measured": measured, "under_another_name": n_across, "groups": len(groups)},
    )
    for names, found in grouped(across, _names).items():
        yield Finding(
            Check.DUPLICATES,
            f"bit-identical in {listed([f'round {r} {t}' for r, t in names], 8)}: {_results(found)}",
            [run.source for group in found for run in group],
            {"results": len(found), "names": len(names)},
        )


def _results(groups: Sequence[list[Run]]) -> str:
    """Which stages and configurations."""
    kinds = dict.fromkeys(f"{group[0].stage} {group[0].config}" for group in groups)
    return listed(list(kinds), 6)


def _names(group: Sequence[Run]) -> tuple[Name, ...]:
    return tuple(sorted({(run.round, run.task) for run in group}))


def _replays(runs: Sequence[Run]) -> Iterator[Finding]:
    """Runs whose best result is that of the same configuration at an earlier stage of the same task."""
    equal = [run for group in equal_results(runs) for run in group]
    groups = grouped(equal, lambda run: (run.round, run.task, run.seed, run.config, result_of(run)))
    for group in groups.values():
        if len({run.stage for run in group}) > 1:
            first, last = group[0], group[-1]
            yield Finding(
                Check.DUPLICATES,
                f"{name_of(first)} {first.config}{seed_in_words(first)}: {last.stage} is {first.stage} over again, "
                "bit for bit; the longer run found nothing better",
                [run.source for run in group],
            )


def _among_rows(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    """Rows of one seed whose deltas agree bit for bit; of two seeds, a coarse grid makes that a coincidence."""
    telling = [row for row in rows if row.quick_delta != 0 and labelled_seed(row.task) is not None]
    groups = grouped(
        telling, lambda row: (labelled_seed(row.task), row.quick_config, row.quick_delta, row.med_delta)
    )
    found = [group for group in groups.values() if len(group) > 1]
    if not found:
        return
    repeats = sum(len(group) - 1 for group in found)
    with_med = sum(len(group) - 1 for group in found if group[0].med_delta is not None)
    all_med = sum(row.med_delta is not None for row in rows)
    yield Finding(
        Check.DUPLICATES,
        f"ledger: {share(repeats, len(rows))} quick rows and {share(with_med, all_med)} med rows repeat another row "
        "of the same seed, configuration and deltas, bit for bit",
        [row.source for group in found for row in group],
        {"quick_repeats": repeats, "quick": len(rows), "med_repeats": with_med, "med": all_med},
    )
    for group in found:
        families = sorted({row.family for row in group})
        filed = f", filed under the families {' and '.join(families)}" if len(families) > 1 else ""
        yield Finding(
            Check.DUPLICATES,
            f"ledger: {listed([name_of(row) for row in group], 8)} are one result{filed}",
            [row.source for row in group],
        )


def _replayed_rows(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    """Rows whose med delta is the quick delta: neither arm found anything better in the longer run."""
    both = [row for row in rows if row.med_delta is not None]
    same = [row for row in both if row.med_delta == row.quick_delta]
    if same:
        counts = Counter(row.family for row in same)
        families = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        yield Finding(
            Check.DUPLICATES,
            f"ledger: in {share(len(same), len(both))} rows the med delta is the quick delta bit for bit "
            f"({families}): the med runs replayed the quick ones and found nothing better",
            [row.source for row in same],
            {"replayed": len(same), "both": len(both), **counts},
        )
