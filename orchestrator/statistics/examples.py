"""Two runs compared on the same validation examples, one example being one cluster.

The tokens of one answer are right or wrong together, so examples are drawn and exchanged whole, never tokens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.95  # of every interval that is shown
RESAMPLES = 9999
AT_ONCE = 200_000  # numbers drawn at a time
COUNT_COST = 6  # what it takes to draw the multinomial count of one kind, in examples drawn one by one


class Outcomes(NamedTuple):
    """What one run got right: of each validation example, how many of how many."""

    right: tuple[int, ...]
    of: tuple[int, ...]


class Interval(NamedTuple):
    low: float
    high: float


def is_clear(interval: tuple[float, float], p_value: float | None) -> bool:
    """Whether a delta is other than none: its interval without 0, and where it is a gain, a p-value that agrees.

    Where few examples differ, a bootstrap interval may leave 0 out although the exact test does not.
    """
    low, high = interval
    return high < 0 or (low > 0 and (p_value is None or p_value <= (1 - LEVEL) / 2))


@dataclass(frozen=True)
class Comparison:
    """A delta of two runs, and how far the choice of validation examples alone may have moved it."""

    delta: float  # right answers per answer, variant minus baseline
    interval: Interval  # BCa bootstrap over examples, at LEVEL
    p_value: float  # exact sign-flip permutation over examples, one-sided
    standard_error: float  # of delta, over examples


def compare(variant: Outcomes, baseline: Outcomes, fingerprints: tuple[str, str]) -> Comparison | None:
    """The paired comparison of two runs; None for fewer than two examples, which tell nothing of others.

    The resamples are drawn with a generator that the two fingerprints seed: the same runs give the same interval
    everywhere. Where no example tells the arms apart the interval is [0, 0] and p is 1; where all differ by the same,
    it is that one number. Raises ValueError when the runs were not on the same examples.
    """
    if variant.of != baseline.of:
        raise ValueError("the two runs were not evaluated on the same examples")
    if len(variant.of) < 2:
        return None
    differences = [a - b for a, b in zip(variant.right, baseline.right, strict=True)]
    delta = sum(differences) / sum(variant.of)
    return Comparison(
        delta=delta,
        interval=bootstrap(differences, variant.of, seed=seed_of(*fingerprints)),
        p_value=permutation_p(differences),
        standard_error=standard_error(differences, variant.of),
    )


def seed_of(variant: str, baseline: str) -> int:
    """The seed of the resamples of two runs, from their fingerprints."""
    return int.from_bytes(hashlib.sha256(f"{variant} {baseline}".encode()).digest()[:8], "big")


def standard_error(differences: Sequence[int], of: Sequence[int]) -> float:
    """Of the ratio sum(differences) / sum(of), examples being drawn at random (linearised, n - 1).

    Never less than one answer: that no example happened to differ, or all by the same, is no certainty.
    """
    n, total = len(differences), sum(of)
    ratio = sum(differences) / total
    squares = sum((d - ratio * size) ** 2 for d, size in zip(differences, of, strict=True))
    return max(float((squares * n / (n - 1)) ** 0.5), 1.0) / total


def bootstrap(
    differences: Sequence[int],
    of: Sequence[int],
    *,
    seed: int,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval:
    """The BCa bootstrap interval of sum(differences) / sum(of) over examples (Efron 1987).

    Examples that are alike are drawn together, as multinomial counts, where that is faster: the same distribution.
    """
    import numpy as np

    kinds = Counter(zip(differences, of, strict=True))
    delta = sum(differences) / sum(of)
    if all(d * sum(of) == size * sum(differences) for d, size in kinds):
        return Interval(delta, delta)
    d, size = (np.array(column, dtype=float) for column in zip(*kinds, strict=True))
    counts = np.array(list(kinds.values()))
    drawn = np.sort(_resampled(d, size, counts, np.random.default_rng(seed), resamples))
    below = (np.sum(drawn < delta) + np.sum(drawn <= delta)) / (2 * resamples)
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(float(below), 0.5 / resamples), 1 - 0.5 / resamples))
    left_out = ((d @ counts) - d) / ((size @ counts) - size)
    skew = left_out @ counts / counts.sum() - left_out
    acceleration = float((skew**3 @ counts) / (6 * (skew**2 @ counts) ** 1.5))
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(tail)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(drawn, ends)
    return Interval(float(low), float(high))


def _resampled(
    d: NDArray[np.float64],
    size: NDArray[np.float64],
    counts: NDArray[np.int64],
    generator: np.random.Generator,
    resamples: int,
) -> NDArray[np.float64]:
    """The ratio in each resample: as multinomial counts of the kinds, or example by example where that costs less."""
    import numpy as np

    n = int(counts.sum())
    is_by_kind = len(counts) * COUNT_COST < n
    if not is_by_kind:
        d, size = np.repeat(d, counts), np.repeat(size, counts)
    rows = max(1, AT_ONCE // len(d))
    parts = []
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        if is_by_kind:
            drawn = generator.multinomial(n, counts / n, size=some)
            parts.append((drawn @ d) / (drawn @ size))
        else:
            which = generator.integers(n, size=(some, n), dtype=np.uint32)
            parts.append(d[which].sum(axis=1) / size[which].sum(axis=1))
    return np.concatenate(parts)


def permutation_p(differences: Sequence[int]) -> float:
    """P(sum >= observed) when each example's difference may as well have had the other sign; exact.

    The sum's distribution is the inverse Fourier transform of its characteristic function, the product of
    cos(t |difference|). Never below 2^-n of the n examples that differ.
    """
    import numpy as np

    sizes = Counter(abs(d) for d in differences if d)
    most = sum(size * count for size, count in sizes.items())
    if not most:
        return 1.0
    observed = sum(differences)
    t = 2 * np.pi * np.arange(most + 1) / (2 * most + 1)
    characteristic = np.prod([np.cos(t * size) ** count for size, count in sizes.items()], axis=0)
    probabilities = np.fft.irfft(characteristic, n=2 * most + 1)  # of 0, 1, .. most, -most, .. -1
    tail = _tail(probabilities, observed, most)
    return float(min(1.0, max(tail, 0.5 ** sum(sizes.values()))))


def _tail(probabilities: NDArray[np.float64], observed: int, most: int) -> float:
    """P(sum >= observed), summed over the smaller tail where that is exact."""
    if observed > 0:
        return float(probabilities[observed : most + 1].sum())
    return 1.0 - float(probabilities[1 - observed : most + 1].sum())
