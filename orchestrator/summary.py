"""The summary of a round as text: per task a table of arms, then what was decided and what to doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from orchestrator.caveats import EXPLANATIONS, Caveat
from orchestrator.planner import Verdict, points
from orchestrator.records import Record
from orchestrator.spec import ResolvedRound
from worker.job import Outcome

WIDTH = 100
_COLUMNS = "{:<28} {:>4} {:<8} {:>8} {:>10} {:>9} {:>6} {:>7}  {}"


def summary(resolved: ResolvedRound, state: str, records: Sequence[Record]) -> str:
    """The whole summary, ending in a new line."""
    return "\n".join(_lines(resolved, state, records)) + "\n"


def _lines(resolved: ResolvedRound, state: str, records: Sequence[Record]) -> Iterator[str]:
    spec, facts = resolved.spec, resolved.facts
    yield "=" * WIDTH
    yield f"{spec.round}: {state}"
    yield (
        f"model {facts.model.n_layer} layers x {facts.model.n_embd}, {facts.model.n_params:,} parameters; "
        f"rule: {spec.prune.rule}, promoted from {points(spec.prune.min_delta)} ({spec.prune.metric})"
    )
    yield "=" * WIDTH
    for task in spec.tasks:
        yield from _task_lines(resolved, task, [record for record in records if record["task"] == task])
    yield from _verdict_lines(records)
    yield from _caveat_lines(records)


def _task_lines(resolved: ResolvedRound, task: str, records: Sequence[Record]) -> Iterator[str]:
    val = resolved.facts.tasks[task].val
    yield ""
    yield f"[{task}] {val.kept} validation examples, {val.n_tokens} answer tokens (one is {val.symbol_pp:.2f} pp)"
    yield (
        f"  majority answer {val.majority_accuracy:.2%}, uniform guess {val.uniform_accuracy:.2%}"
        f"{_padding(records)}"
    )
    yield _COLUMNS.format(
        "config", "seed", "stage", "acc", "delta", "d_loss", "steps", "time", "decision"
    ).rstrip()
    verdicts = {_key(record, record["decided_stage"]): record for record in records if _is_decision(record)}
    for record in records:
        if _is_decision(record):
            if record["status"] == Verdict.NO_OP:
                yield _row(record, record["decided_stage"], record["status"])
        else:
            verdict = verdicts.get(_key(record, record["stage"]))
            shown = record | ({"d_acc": verdict["d_acc"]} if verdict else {})  # by the rule's metric
            yield _row(shown, record["stage"], verdict["status"] if verdict else _standing(record))


def _padding(records: Sequence[Record]) -> str:
    """The largest share of padding in any training run of the task."""
    shares = [record["padding_share"] for record in records if record.get("padding_share") is not None]
    return f"; padding {max(shares):.1%} of the positions trained on" if shares else ""


def _row(record: Record, stage: str, decision: str) -> str:
    accuracy, delta, d_loss = record["best_val_tok_acc"], record["d_acc"], record["d_loss"]
    seconds = record.get("seconds")
    return _COLUMNS.format(
        record["config"],
        record["seed"],
        stage,
        "-" if accuracy is None else f"{accuracy:.2%}",
        "-" if delta is None else points(delta),
        "-" if d_loss is None else f"{d_loss + 0.0:+.4f}",
        record.get("steps") or "-",
        "-" if seconds is None else f"{seconds:.0f} s",
        decision,
    ).rstrip()


def _standing(record: Record) -> str:
    """What stands in place of a decision: how the job ended, where that is worth saying."""
    if record["error"]:
        return f"{record['status']}: {record['error']}"
    return "cached" if record["status"] == "cached" else ""


def _verdict_lines(records: Sequence[Record]) -> Iterator[str]:
    yield ""
    yield "-" * WIDTH
    decisions = [record for record in records if _is_decision(record)]
    for verdict in Verdict:
        arms = Counter(
            f"{r['task']}/{r['config']}/{r['decided_stage']}" for r in decisions if r["status"] == verdict
        )
        if arms:
            named = [f"{arm} ({count} seeds)" if count > 1 else arm for arm, count in arms.items()]
            yield f"{verdict} ({arms.total()}): {', '.join(named)}"
    if not decisions:
        yield "nothing is decided yet"


def _caveat_lines(records: Sequence[Record]) -> Iterator[str]:
    found = {
        Caveat(caveat): set[str]() for caveat in sorted({c for record in records for c in record["caveats"]})
    }
    for record in records:
        for caveat in record["caveats"]:
            found[Caveat(caveat)].add(record["task"])
    if found:
        yield ""
        yield "to be kept in mind:"
    for caveat, tasks in found.items():
        yield f"  {caveat} ({', '.join(sorted(tasks))}): {EXPLANATIONS[caveat]}"


def _is_decision(record: Record) -> bool:
    return bool(record["stage"] == "decision")


def _key(record: Record, stage: str) -> tuple[str, int, str]:
    return record["config"], record["seed"], stage


def has_failures(records: Sequence[Record]) -> bool:
    """Whether something could not be measured; a divergence is a measurement."""
    measured = {Outcome.OK, Outcome.CACHED, Outcome.DIVERGED}
    return any(
        record["status"] == Verdict.UNDECIDED if _is_decision(record) else record["status"] not in measured
        for record in records
    )
