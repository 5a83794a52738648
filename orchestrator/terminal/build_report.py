"""A build report as text: what was read, kept and dropped, and what accuracies on it can mean."""

from __future__ import annotations

import re
from collections.abc import Iterator

from worker.job import BuildReport, Lengths, SplitReport

_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]+")


def report_lines(report: BuildReport) -> Iterator[str]:
    """The report in a few aligned lines."""
    train, val = report.train, report.val
    yield "data       " + _DIGEST.sub(r"\1", report.source)
    for name, split in (("train", train), ("val", val)):
        yield f"{name:<10} {split.kept} of {split.rows_read} rows read{_dropped(split)}"
    yield f"prompts    {_lengths(train.prompt_tokens)} tokens in train, {_lengths(val.prompt_tokens)} in val"
    yield f"answers    {_lengths(train.answer_tokens)} tokens in train, {_lengths(val.answer_tokens)} in val"
    yield f"truncated  {train.truncated:.1%} of the prompts in train, {val.truncated:.1%} in val{_cut(report)}"
    yield f"leak       answer in the prompt: {train.leak:.1%} in train, {val.leak:.1%} in val"
    yield (
        f"chance     majority answer {val.majority_accuracy:.2%}, best constant answer {val.constant_accuracy:.2%}, "
        f"uniform guess {val.uniform_accuracy:.2%}"
    )
    yield f"symbol     {val.n_tokens} answer tokens in val, one is {val.symbol_pp:.3g} pp"


def _dropped(split: SplitReport) -> str:
    reasons = [f"{count} {reason}" for reason, count in split.dropped.items()]
    return f"; dropped: {', '.join(reasons)}" if reasons else ""


def _cut(report: BuildReport) -> str:
    """What else was cut, and how many examples cannot be answered from what is left of their prompt."""
    train, val = report.train, report.val
    lost = train.lost_answers or val.lost_answers
    gone = f", the answer with it: {train.lost_answers:.1%} and {val.lost_answers:.1%}" if lost else ""
    cut = train.cut_answers + val.cut_answers
    return gone + (f"; {cut} answer{'s' if cut > 1 else ''} cut" if cut else "")


def _lengths(lengths: Lengths) -> str:
    if lengths.min == lengths.max:
        return f"{lengths.max}"
    return f"{lengths.min}-{lengths.max} (median {lengths.p50}, 90 % up to {lengths.p90})"
