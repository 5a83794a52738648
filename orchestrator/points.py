"""Differences of accuracies: taken without binary noise, and in percentage points for people."""

from __future__ import annotations

# Accuracies are ratios of token counts, so distinct deltas differ by far more than this; it only absorbs
# binary rounding: 0.2010 - 0.2000 counts as 0.0010.
ROUNDING = 1e-9


def rounded(value: float) -> float:
    """Without the binary noise in the last digits."""
    return round(value, 12)


def difference(value: float, reference: float) -> float:
    """value - reference without the binary noise in the last digits."""
    return rounded(value - reference)


def points(fraction: float, beside: float | None = None) -> str:
    """A difference of accuracies for people: 0.001 is +0.10 pp.

    With more digits where two would make it look the same as a different one beside it.
    """
    alike = beside is not None and abs(fraction - beside) > ROUNDING and abs(fraction - beside) < 1e-4
    return f"{_signed(100 * fraction, 5 if alike else 2)} pp"


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a difference for people: [-0.40, +1.20] pp."""
    low, high = (_signed(100 * end, 2) for end in interval)
    return f"[{low}, {high}] pp"


def _signed(value: float, digits: int) -> str:
    """With its sign; what shows as zero is +0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
