"""Names, families, marks and sums that say something else than the data beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchestrator.audit.comparisons import (
    Comparison,
    base_task,
    comparisons,
    grouped,
    in_words,
    labelled_seed,
    name_of,
    stages,
)
from orchestrator.audit.finding import Check, Figure, Finding, listed
from orchestrator.history.entries import OK, History, LedgerRow, Run
from orchestrator.history.predecessor import NO_FS, PROBE, PROMPT_FS, SKIP_REUSE, TRAINERS
from orchestrator.points import points
from worker.job import Outcome

EQUAL = 1e-9  # deltas that differ by less are the same


def judge(history: History) -> Iterator[Finding]:
    """Labels of runs, then of the ledger, then the ledger against the runs."""
    yield from _other_trainers(history.runs)
    yield from _seeds(history.runs)
    yield from _modes(history.runs)
    yield from _statuses(history.runs)
    yield from _shared_folders(history.runs)
    yield from _nameless(history.runs)
    yield from _rounds_of_files(history.runs)
    yield from _mixed_families(history.ledger)
    yield from _marks(history.ledger)
    yield from _sums(history)


def _other_trainers(runs: Sequence[Run]) -> Iterator[Finding]:
    """Tasks named after a data set's own question that ran another program."""
    others = [run for run in runs if run.trainer and run.trainer != _expected_trainer(run)]
    groups = grouped(others, lambda run: (base_task(run.task), run.trainer))
    for (task, trainer), group in groups.items():
        tasks = list(dict.fromkeys(name_of(run) for run in group))
        data = sorted({run.dataset for run in group if run.dataset})
        on = f" on {' and '.join(data)}" if data else ""
        text = f"tasks labelled {task} ran {trainer}{on}, which is another task: {listed(tasks)}"
        figures: dict[str, Figure] = {"label": task, "trainer": trainer, "runs": len(group)}
        yield Finding(Check.LABELS, text, [run.source for run in group], figures)


def _expected_trainer(run: Run) -> str:
    """The program that the task's name promises; its own where the name promises none."""
    return next((name for begin, name in TRAINERS.items() if _begins(run.task, begin)), run.trainer)


def _begins(task: str, begin: str) -> bool:
    return task == begin or task.startswith(f"{begin}_")


def _seeds(runs: Sequence[Run]) -> Iterator[Finding]:
    """Tasks of the predecessor named after another seed; the names of own tasks are free."""
    for run in runs:
        claimed = None if run.is_own else labelled_seed(run.task)
        signed = run.signed_seed if run.signed_seed is not None else run.seed
        if claimed is not None and signed is not None and claimed != signed:
            text = f"{name_of(run)} {run.stage} {run.config} was run with seed {signed}"
            yield Finding(Check.LABELS, text, [run.source], {"label": claimed, "seed": signed})


def _modes(runs: Sequence[Run]) -> Iterator[Finding]:
    for run in runs:
        in_folder = run.run_dir.rpartition("/")[2] if run.trainer else ""
        for mode in {run.mode, in_folder} & {NO_FS, PROMPT_FS}:
            if run.is_variant == (mode == NO_FS) and run.stage != PROBE:
                text = f"{in_words(run)} ran as {mode}"
                yield Finding(Check.LABELS, text, [run.source])


def _statuses(runs: Sequence[Run]) -> Iterator[Finding]:
    """Numbers that a status does not promise, or promises in vain; an own answer may be that of a diverged run."""
    for run in runs:
        may_lack_them = run.status == Outcome.DIVERGED or (run.is_own and run.status == Outcome.CACHED)
        if run.stage != PROBE and run.has_numbers != (run.status in OK) and not may_lack_them:
            numbers = "with numbers" if run.has_numbers else "without numbers"
            text = f"{in_words(run)} is {run.status!r} {numbers}"
            yield Finding(Check.LABELS, text, [run.source])


def _shared_folders(runs: Sequence[Run]) -> Iterator[Finding]:
    ran = [run for run in runs if run.run_dir and run.status not in (SKIP_REUSE, Outcome.CACHED)]
    folders = grouped(ran, lambda run: (None if run.trainer else run.round, run.run_dir))
    for group in folders.values():
        if len(group) > 1:
            text = f"{len(group)} records name the same folder {group[0].run_dir}"
            yield Finding(Check.LABELS, text, [run.source for run in group])


def _nameless(runs: Sequence[Run]) -> Iterator[Finding]:
    nameless = [run for run in runs if run.task.startswith("(")]
    for round_, group in grouped(nameless, lambda run: run.round).items():
        text = f"round {round_}: {len(group)} records do not say which task they are of"
        yield Finding(Check.LABELS, text, [run.source for run in group])


def _rounds_of_files(runs: Sequence[Run]) -> Iterator[Finding]:
    strays = [run for run in runs if _is_in_another_s_file(run)]
    groups = grouped(strays, lambda run: (run.source.rpartition(":")[0], run.round))
    for (file, round_), group in groups.items():
        text = f"{file} holds {len(group)} records of round {round_}"
        yield Finding(Check.LABELS, text, [run.source for run in group])


def _is_in_another_s_file(run: Run) -> bool:
    """Whether the name of its file has the number of another round."""
    named = re.search(r"round(\d+)_", run.source)
    return named is not None and run.round.isdecimal() and int(named[1]) != int(run.round)


def _mixed_families(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    """Families of the ledger with several kinds of label in them, and labels that stand in several families."""
    for family, of_family in grouped(rows, lambda row: row.family).items():
        tasks = grouped(of_family, lambda row: base_task(row.task))
        if len(tasks) > 1:
            counts = ", ".join(f"{task} {len(group)}" for task, group in sorted(tasks.items()))
            yield Finding(
                Check.LABELS,
                f"ledger: the family {family} holds several kinds of task: {counts}",
                [row.source for group in tasks.values() for row in group],
                {task: len(group) for task, group in tasks.items()},
            )


def _marks(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    """Marks of a reversal that the deltas do not bear out."""
    for row in rows:
        is_one = row.quick_delta > 0 and row.med_delta is not None and row.med_delta <= 0
        if row.is_reversal is not None and row.is_reversal != is_one:
            mark = "a" if row.is_reversal else "no"
            text = f"ledger: {name_of(row)} is marked {mark} reversal; its deltas say otherwise"
            yield Finding(Check.LABELS, text, [row.source])


def rows_with_records(history: History) -> list[tuple[LedgerRow, list[Comparison]]]:
    """The rows of the ledger whose comparisons are at hand as records."""
    groups = grouped(comparisons(history.runs), lambda each: (each.variant.round, each.variant.task))
    return [(row, groups[row.round, row.task]) for row in history.ledger if (row.round, row.task) in groups]


def _sums(history: History) -> Iterator[Finding]:
    """Rows of the ledger that the records do not give."""
    order = stages(history.runs)
    for row, group in rows_with_records(history):
        quick, *later = order[row.round]
        first = [each for each in group if each.variant.stage == quick]
        if first:
            best = max(first, key=lambda each: each.delta)
            named = {each.variant.config for each in first if abs(each.delta - best.delta) < EQUAL}
            yield from _differing(row, "quick", row.quick_delta, best)
            if row.quick_config not in named:
                named_best = f"names {row.quick_config} the best at {quick}"
                text = f"ledger: {name_of(row)} {named_best}; it is {best.variant.config}"
                yield Finding(Check.LABELS, text, [row.source, *best.records])
        for each in group:
            if each.variant.stage in later[:1] and row.med_delta is not None:
                yield from _differing(row, "med", row.med_delta, each)


def _differing(row: LedgerRow, stage: str, said: float, each: Comparison) -> Iterator[Finding]:
    if abs(said - each.delta) > EQUAL:
        text = f"ledger: {name_of(row)} has the {stage} delta {points(said)}; the records give {points(each.delta)}"
        yield Finding(Check.LABELS, text, [row.source, *each.records])
