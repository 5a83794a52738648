"""Drafts to examples, and the report on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.encoding import Draft
from tasks.example import Example, digest
from tasks.notes import NotePool
from tasks.report import BuildReport, Lengths, SplitReport, ValReport, constant_accuracy, majority_accuracy
from tasks.selection import Chosen
from tasks.tokens import Tokenizer

LEAST_ANSWERS = 2**32  # so many possible answers make it no chance that one stands in a prompt


@dataclass(frozen=True, slots=True)
class Finished:
    """The examples of one split.

    leaks: how many have their answer in their prompt; lost_answers: how many would, as they should, but for what was
    cut.
    """

    chosen: Chosen
    examples: list[Example]
    leaks: int
    lost_answers: int


def finish(chosen: Chosen, pool: NotePool, tokenizer: Tokenizer) -> Finished:
    """Drafts to examples: notes go between head and tail."""
    examples, leaks = [], 0
    for draft in chosen.drafts:
        name, parts = draft.candidate.name, [draft.head, draft.tail]
        hidden = _hidden_answer(draft, tokenizer)
        leaked = hidden is not None and hidden in _own_text(draft, tokenizer)
        if draft.room:
            filling = pool.fill(name, draft.room)
            parts.insert(1, filling.ids)
            leaked = leaked or (hidden is not None and pool.shows(filling, hidden))
        leaks += leaked
        examples.append(Example(name, np.concatenate(parts), draft.answer))
    return Finished(chosen, examples, leaks, sum(_is_lost(draft, tokenizer) for draft in chosen.drafts))


def _hidden_answer(draft: Draft, tokenizer: Tokenizer) -> str | None:
    """The answer as it is trained on, if it must not stand in its prompt; few symbols may, by chance."""
    candidate = draft.candidate
    if candidate.extractive:
        return None
    if candidate.choices is not None and candidate.choices ** len(candidate.answer) < LEAST_ANSWERS:
        return None
    return _answer_text(draft, tokenizer) or None


def _is_lost(draft: Draft, tokenizer: Tokenizer) -> bool:
    """Whether the answer was to be found in the prompt, and is gone with what was cut of that."""
    if not (draft.candidate.extractive and draft.truncated):
        return False
    answer = _answer_text(draft, tokenizer)
    return answer in draft.candidate.own_text and answer not in _own_text(draft, tokenizer)


def _answer_text(draft: Draft, tokenizer: Tokenizer) -> str:
    """The answer as it is trained on, without white space around it."""
    answer = tokenizer.decode(draft.answer.tolist()) if draft.answer_cut else draft.candidate.answer
    return answer.strip(" \t\r\n\ufffd")


def _own_text(draft: Draft, tokenizer: Tokenizer) -> str:
    """The prompt as it is trained on, notes aside."""
    if draft.truncated:
        return tokenizer.decode([*draft.head.tolist(), *draft.tail.tolist()])
    return draft.candidate.own_text


def report(
    kind: str, train: Finished, val: Finished, *, tokenizer: str, vocab_size: int, source: str
) -> BuildReport:
    """The report on both splits."""
    drafts = val.chosen.drafts
    n_tokens = sum(len(draft.answer) for draft in drafts)
    hits = math.fsum(len(draft.answer) / (draft.candidate.choices or vocab_size) for draft in drafts)
    symbols = all(draft.candidate.choices is not None for draft in drafts)
    return BuildReport(
        kind=kind,
        tokenizer=tokenizer,
        source=source,
        digest=digest([train.examples, val.examples]),
        train=SplitReport(**_split_counts(train)),
        val=ValReport(
            **_split_counts(val),
            n_tokens=n_tokens,
            symbols_per_answer=n_tokens / len(drafts) if symbols else None,
            majority_accuracy=majority_accuracy(train.examples, val.examples),
            constant_accuracy=constant_accuracy(val.examples),
            uniform_accuracy=hits / n_tokens,
            symbol_pp=100 / n_tokens,
        ),
    )


def _split_counts(finished: Finished) -> dict[str, Any]:
    chosen = finished.chosen
    kept = len(finished.examples)
    return {
        "wanted": chosen.wanted,
        "rows_read": chosen.rows_read,
        "kept": kept,
        "dropped": dict(sorted(chosen.dropped.items())),
        "prompt_tokens": Lengths.of([len(example.prompt) for example in finished.examples]),
        "answer_tokens": Lengths.of([len(example.answer) for example in finished.examples]),
        "truncated": sum(draft.truncated for draft in chosen.drafts) / kept,
        "cut_answers": sum(draft.answer_cut for draft in chosen.drafts),
        "leak": finished.leaks / kept,
        "lost_answers": finished.lost_answers / kept,
    }
