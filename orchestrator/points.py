"""Differences of accuracies: taken without binary noise, and in percentage points for people."""

from __future__ import annotations

# Accuracies are ratios of token counts, so distinct deltas differ by far more than this; it only absorbs
# binary rounding: 0.2010 - 0.2000 counts as 0.0010.
ROUNDING = 1e-9


def difference(value: float, reference: float) -> float:
    """value - reference without the binary noise in the last digits."""
    return round(value - reference, 12)


def points(fraction: float, beside: float | None = None) -> str:
    """A difference of accuracies for people: 0.001 is +0.10 pp.

    With more digits where two would make it look the same as a different one beside it.
    """
    alike = beside is not None and abs(fraction - beside) > ROUNDING and abs(fraction - beside) < 1e-4
    return f"{100 * fraction + 0.0:+.{5 if alike else 2}f} pp"


def interval_text(interval: tuple[float, float]) -> str:
    """An interval of a difference for people: [-0.40, +1.20] pp."""
    low, high = (f"{100 * end + 0.0:+.2f}" for end in interval)
    return f"[{low}, {high}] pp"
