"""What was built, what was dropped, and what the numbers on it can mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from tasks.example import Example


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lengths(_Frozen):
    """Lengths in tokens over the examples of a split."""

    min: int
    p50: int
    p90: int
    max: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """Percentiles that are lengths that occur (the lower neighbour)."""
        import numpy as np

        low, p50, p90, high = np.percentile(lengths, [0, 50, 90, 100], method="lower").tolist()
        return cls(min=low, p50=p50, p90=p90, max=high)


class SplitReport(_Frozen):
    """One split; rows_read = kept + all dropped. Reading stops when `wanted` examples are kept."""

    wanted: int
    rows_read: int
    kept: int
    dropped: dict[str, int]  # reason -> rows
    prompt_tokens: Lengths
    answer_tokens: Lengths
    truncated: float  # share of prompts of which a part was cut (notes do not count)
    cut_answers: int  # answers cut at max_answer_tokens
    leak: float  # share of examples whose answer stands word for word in their prompt
    # share of examples whose answer was to be found in the prompt and went with what was cut; 0 in earlier reports
    lost_answers: float = 0.0


class ValReport(SplitReport):
    """The validation split, with what its accuracies have to be compared to."""

    n_tokens: int  # answer tokens
    symbols_per_answer: float | None  # mean; None for free text
    majority_accuracy: float  # token accuracy of always saying the most frequent answer token of train
    uniform_accuracy: float  # token accuracy of a uniform guess
    # the most that one token can have, always said; 0 in reports before it was known
    constant_accuracy: float = 0.0
    symbol_pp: float  # what one answer token is worth, in percentage points


class BuildReport(_Frozen):
    """Everything about one build that is worth knowing without the data."""

    kind: str
    tokenizer: str
    source: str  # content hashes, hub revision, or "generated"
    digest: str  # SHA-256 over ids and token ids of both splits
    train: SplitReport
    val: ValReport


Built = tuple[Sequence["Example"], Sequence["Example"], BuildReport]  # train, val


def majority_accuracy(train: Sequence[Example], val: Sequence[Example]) -> float:
    """Token accuracy on `val` of always predicting the most frequent answer token of `train`."""
    counts = _answer_tokens(train)
    best = min(counts, key=lambda token: (-counts[token], token))
    of_val = _answer_tokens(val)
    return of_val[best] / of_val.total()


def constant_accuracy(val: Sequence[Example]) -> float:
    """Token accuracy on `val` of always predicting its most frequent answer token.

    A model that has collapsed to one answer reaches this if it is the right one; the best of many evaluations may be.
    """
    counts = _answer_tokens(val)
    return max(counts.values()) / counts.total()


def _answer_tokens(examples: Sequence[Example]) -> Counter[int]:
    return Counter(token for example in examples for token in example.answer.tolist())
