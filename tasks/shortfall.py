"""What to say when a build gives too few examples: how many, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tasks.errors import BuildError
from tasks.selection import Chosen

EQUAL_IDS = "rows of equal id count as the same: give each row an id of its own, or leave the ids out"
IN_VAL = "give train rows that are not in val, by content or by id"
ADVICE = {
    "prompt_too_long": "raise max_prompt_tokens",
    "prompt_too_short": "lower min_prompt_tokens",
    "answer_too_long": "raise max_answer_tokens",
    "duplicate_id": EQUAL_IDS,
    "in_val": IN_VAL,
}


def too_few(kind: str, splits: Sequence[Chosen], advice: Mapping[str, str], *, generated: bool) -> BuildError:
    """For splits with fewer examples than wanted; `advice`: the task's own, by drop reason."""
    built = " and ".join(f"{len(one.drafts)} of {one.wanted} {one.split} examples" for one in splits)
    accounts = " ".join(_account(one) for one in splits)
    remedies = "; ".join(_remedies(splits, {**ADVICE, **advice}, generated))
    return BuildError(f"{kind}: built {built}. {accounts} To do: {remedies}.")


def _account(chosen: Chosen) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in chosen.dropped.most_common())
    return f"{chosen.split}: {chosen.rows_read} rows read, dropped: {reasons or 'none'}."


def _remedies(splits: Sequence[Chosen], advice: Mapping[str, str], generated: bool) -> Iterator[str]:
    short = [one for one in splits if not one.complete]
    for one in short:
        if one.drafts:
            yield f"lower {one.split} to {len(one.drafts)}"
        elif one.dropped["passed_over"]:
            yield "lower val or val_offset"
        elif not one.rows_read:
            yield f"no row belongs to {one.split}: give two files, data: {{train: FILE, val: FILE}}"
    yield from {advice[reason]: None for one in short for reason in one.dropped if reason in advice}
    if not generated:
        yield "give more data"


def no_notes(kind: str) -> BuildError:
    """For prompts to be filled when all rows are used up."""
    return BuildError(
        f"{kind}: no row is left to make notes of: all usable rows are training or validation examples. "
        "To do: lower train or val; or set notes: {fill: false}."
    )
