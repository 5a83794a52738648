"""A log in Markdown with an entry for every round, negative results included.

Each entry stands between two comments that name its round. Written again it is replaced where it stands, so a round
has one entry however often it is told; whatever else stands in the file is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.errors import BadInput, FsqError
from orchestrator.files import write_whole
from orchestrator.findings.caveats import EXPLANATIONS
from orchestrator.findings.records import RECORDED, by_metric, is_decision, key_of
from orchestrator.points import interval_text, points
from orchestrator.reports import tables
from orchestrator.reports.effects import Effect, of_rounds
from orchestrator.reports.gathering import RoundResults
from worker.job import BASELINE

NAME = "fsq_log.md"  # in the results folder
TITLE = "# Log of rounds\n"
COLUMNS = ("config", "stage", "seed", "accuracy", "delta", "95 % interval", "decision", "fingerprint")


def update(path: Path, rounds: Sequence[RoundResults]) -> None:
    """Puts the rounds' entries into the log, which is made where there is none; raises FsqError."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            text = path.read_text(encoding="utf-8") if path.exists() else TITLE
            for one in rounds:
                text = with_entry(text, one.view.round, entry(one))
            write_whole(path, text.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise FsqError(f"the log {path} cannot be kept: {error}") from error


def with_entry(log: str, name: str, text: str) -> str:
    """The log with this entry in place of the round's own, or at its end; raises BadInput for a broken one."""
    begin, end = f"<!-- fsq: begin {name} -->\n", f"<!-- fsq: end {name} -->\n"
    whole = f"{begin}{text}{end}"
    start = log.find(begin)
    if start < 0:
        blank = "" if not log or log.endswith("\n\n") else "\n" if log.endswith("\n") else "\n\n"
        return f"{log}{blank}{whole}"
    stop = log.find(end, start)
    if stop < 0:
        raise BadInput(f"the entry of round {name} has lost its last line, {end.strip()!r}; put it back")
    return log[:start] + whole + log[stop + len(end) :]


def entry(one: RoundResults) -> str:
    """What was tried, every number, what came of it, and what to doubt."""
    return "\n".join(_lines(one)) + "\n"


def _lines(one: RoundResults) -> Iterator[str]:
    view, report = one.view, of_rounds([one])
    ended = view.finished_at or view.created_at
    yield f"## {ended:%Y-%m-%d}: {view.round} ({view.state})"
    yield ""
    yield (
        f"Rule: promoted from {points(view.min_delta)} in {view.metric}; stages {', '.join(view.stages)}; "
        + (f"seeds {', '.join(map(str, view.seeds))}. Tried: {', '.join(view.variants) or 'nothing yet'}.")
    )
    for task in view.tasks:
        yield ""
        yield f"### {task}"
        yield ""
        rows = list(_rows(one, task))
        if rows:
            yield from tables.markdown_table(COLUMNS, rows)
            yield ""
        yield f"Verdict: {_verdict(report.tasks.get(task, ()), view.metric)}"
    if report.caveats:
        yield ""
        yield "Keep in mind:"
        yield ""
    for caveat, tasks in report.caveats.items():
        yield f"- {caveat} ({', '.join(tasks)}): {EXPLANATIONS[caveat]}"
    yield ""
    yield _provenance(one)


def _rows(one: RoundResults, task: str) -> Iterator[tuple[str, ...]]:
    """Every job with what was decided on it, and every decision that needed none."""
    metric = one.view.metric
    jobs = {key_of(record): record for record in one.jobs}
    for record in one.records:
        key = key_of(record)
        if record["task"] != task or (is_decision(record) and key in jobs):
            continue
        verdict = one.verdicts.get(key)
        failure = f"{record['status']}: {record['error']}" if record.get("error") else ""
        told = str(verdict["status"]) if verdict else failure
        baseline = jobs.get(key._replace(variant=BASELINE), {}).get(metric)
        shown = by_metric(metric, record, baseline, verdict)
        accuracy, delta, interval = shown.get(metric), shown["d_acc"], shown["d_acc_ci"]
        yield (
            f"{key.variant} (control)" if key.variant == one.control else key.variant,
            key.stage,
            str(key.seed),
            "-" if accuracy is None else f"{accuracy:.2%}",
            "-" if delta is None else points(delta),
            "-" if interval is None else interval_text(interval),
            " ".join(told.split()),
            (record.get("fingerprint") or "-")[:12],
        )


def _verdict(on_task: Sequence[Effect], metric: str) -> str:
    """What came of a task's variants in a sentence, whichever way it went."""
    effects = [effect for effect in on_task if not effect.is_control]
    verdicts: Counter[str] = Counter()
    for effect in effects:
        verdicts.update(effect.decisions)
    if not verdicts:
        return "nothing is decided yet."
    counted = ", ".join(f"{count} {name}" for name, count in verdicts.items())
    # the last stage of each
    last = {effect.variant: effect for effect in effects if effect.across is not None}
    if not last:
        return f"{counted}; nothing was measured."
    best = max(last.values(), key=lambda effect: effect.delta or 0.0)
    interval = "" if best.interval is None else f", 95 % interval {interval_text(best.interval)}"
    delta = f"{points(best.delta or 0.0)} at {best.stage}{interval}, runs {tables.runs_words(best)}"
    by = "" if metric == RECORDED else f" by {RECORDED}"
    return f"{counted}. Best of {best.tried}{by} at its last stage: {best.variant} {delta}."


def _provenance(one: RoundResults) -> str:
    """Where the numbers are from, and how to get them again."""
    made = {
        name: sorted({str(job[name]) for job in one.jobs if job[name]})
        for name in ("version", "device", "kernel")
    }
    told = "; ".join(f"{name} {', '.join(values)}" for name, values in made.items() if values)
    return f"`fsq export {one.view.round}`: {len(one.lines)} records" + (f"; {told}." if told else ".")
