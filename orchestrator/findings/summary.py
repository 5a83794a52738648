"""The summary of a round as text: per task a table of arms, then what was decided and what to doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from orchestrator.findings.caveats import EXPLANATIONS, Caveat
from orchestrator.findings.records import RECORDED, Record, by_metric, is_decision
from orchestrator.points import interval_text, points
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import SearchSpec
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, BuildReport

WIDTH = 118
FALSE_DISCOVERY = 0.05

_COLUMNS = "{:<28} {:>4} {:<8} {:>8} {:>10} {:>18} {:>9} {:>6} {:>7}  {}"


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
    yield from _family_lines(resolved, [record for record in records if is_decision(record)])
    yield from _caveat_lines(records)


def _task_lines(resolved: ResolvedRound, task: str, records: Sequence[Record]) -> Iterator[str]:
    report = resolved.facts.tasks[task]
    train, val = report.train, report.val
    metric = resolved.spec.prune.metric
    yield ""
    yield f"[{task}] {val.kept} validation examples, {val.n_tokens} answer tokens (one is {val.symbol_pp:.2f} pp)"
    of_tokens = "" if metric == RECORDED else " of the tokens"
    yield f"  {_chance(report)}{of_tokens}{_padding(records)}"
    if resolved.search.confirmation is not None:
        stage = resolved.search.confirmation.stage
        unseen = resolved.report(task, stage)
        size = f"{unseen.val.kept} other examples, {unseen.val.n_tokens} answer tokens"
        yield f"  {stage}: {size}; {_chance(unseen)}{of_tokens}"
    if train.leak or val.leak:
        yield f"  leak: the answer stands in the prompt of {train.leak:.1%} in train, {val.leak:.1%} in val"
    if metric != RECORDED:
        yield f"  acc and delta: {metric}"
    yield _COLUMNS.format(
        "config", "seed", "stage", "acc", "delta", "95 % interval", "d_loss", "steps", "time", "decision"
    ).rstrip()
    verdicts = {_key(record, record["decided_stage"]): record for record in records if is_decision(record)}
    baselines = {
        (record["stage"], record["seed"]): record.get(metric)
        for record in records
        if record["config"] == BASELINE
    }
    for record in records:
        if is_decision(record):
            if record["status"] == Verdict.NO_OP:
                yield _row(record, metric, record["decided_stage"], record["status"])
        else:
            verdict = verdicts.get(_key(record, record["stage"]))
            baseline = baselines.get((record["stage"], record["seed"]))
            shown = by_metric(metric, record, baseline, verdict)
            yield _row(shown, metric, record["stage"], verdict["status"] if verdict else _standing(record))
    yield from _seed_lines(list(verdicts.values()))


def _chance(report: BuildReport) -> str:
    """What is right without having learned anything: the caveat `at_chance` is of the largest."""
    val = report.val
    known = {"majority answer": val.majority_accuracy, "uniform guess": val.uniform_accuracy}
    if val.constant_accuracy > max(known.values()):
        known["best constant answer"] = val.constant_accuracy
    return ", ".join(f"{name} {share:.2%}" for name, share in known.items())


def _seed_lines(decisions: Sequence[Record]) -> Iterator[str]:
    """What the seeds of a variant say together, and how far runs of the baseline lie apart."""
    arms = {(one["config"], one["decided_stage"]): one for one in decisions}
    for (variant, stage), one in arms.items():
        if (one["n_seeds"] or 0) > 1:
            if one["d_acc_sd"] == 0:
                told = "all alike, so nothing is known of their spread: no interval"
            elif one["d_acc_t_ci"] is None:
                told = "only those that an earlier stage promoted: no interval"
            else:
                told = f"95 % t interval {interval_text(one['d_acc_t_ci'])}, sign test p {one['sign_test_p']:.3f}"
            yield (
                f"  {variant} at {stage}: mean {points(one['d_acc_mean'])} over {one['n_seeds']} seeds, "
                f"sd {100 * one['d_acc_sd']:.2f} pp, {one['seed_pattern']}, {told}"
            )
    spreads = {one["decided_stage"]: one for one in decisions if one["run_sd"] is not None}
    for stage, one in spreads.items():
        yield (
            f"  run-to-run spread of the baseline at {stage}: {100 * one['run_sd']:.2f} pp "
            f"({one['run_sd_degrees']} degrees of freedom, all rounds on these examples)"
        )


def _family_lines(resolved: ResolvedRound, decisions: Sequence[Record]) -> Iterator[str]:
    """What is left when it counts how many were tried, and how often nothing at all was promoted."""
    search = resolved.search
    families: dict[tuple[str, str | None], list[Record]] = {}  # by stage; where it confirms, by task too
    for stage in search.all_stages:
        for one in decisions:
            if one["decided_stage"] == stage and one["q_value"] is not None:
                task = None if one["q_level"] is None else one["task"]
                families.setdefault((stage, task), []).append(one)
    for (stage, task), family in families.items():
        level = family[0]["q_level"] or FALSE_DISCOVERY
        q_values = {_same(search, one): one["q_value"] for one in family}
        found = [f"{arm} (q {q:.3f})" for arm, q in q_values.items() if q <= level]
        yield (
            f"gains among the {family[0]['n_tried']} tried at {stage}{f' of {task}' if task else ''}, "
            f"at most {100 * level:g}% of them false: {', '.join(found) or 'none'}"
        )
    adjusted = {
        _same(search, one): f"{one['adjusted_p']:.3f} ({one['adjusted_by'].capitalize()})"
        for one in decisions
        if one["adjusted_p"] is not None
    }
    if adjusted:
        told = ", ".join(f"{arm} {p}" for arm, p in adjusted.items())
        yield f"p of a gain at {search.stages[-1]}, adjusted for all that reached it: {told}"
    if search.control is not None:
        judged = [one for one in decisions if _is_control(search, one) and one["status"] != Verdict.UNDECIDED]
        promoted = sum(one["status"] == Verdict.PROMOTED for one in judged)
        yield f"noise floor: the baseline under another seed was promoted {promoted} of {len(judged)} times"


def _same(search: SearchSpec, record: Record) -> str:
    """A decision's arm under the first name of those that compute the same."""
    return f"{record['task']}/{search.first(record['config'])}"


def _is_control(search: SearchSpec, record: Record) -> bool:
    return bool(record["config"] == search.control and record["decided_stage"] == search.stages[0])


def _padding(records: Sequence[Record]) -> str:
    """The largest share of padding in any training run of the task."""
    shares = [record["padding_share"] for record in records if record.get("padding_share") is not None]
    return f"; padding {max(shares):.1%} of the positions trained on" if shares else ""


def _row(record: Record, metric: str, stage: str, decision: str) -> str:
    accuracy, delta, d_loss = record.get(metric), record["d_acc"], record["d_loss"]
    seconds = record.get("seconds")
    return _COLUMNS.format(
        record["config"],
        record["seed"],
        stage,
        "-" if accuracy is None else f"{accuracy:.2%}",
        "-" if delta is None else points(delta),
        "-" if record.get("d_acc_ci") is None else interval_text(record["d_acc_ci"]),
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
    decisions = [record for record in records if is_decision(record)]
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


def _key(record: Record, stage: str) -> tuple[str, int, str]:
    return record["config"], record["seed"], stage
