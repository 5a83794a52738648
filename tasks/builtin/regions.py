"""Which positions of a row are asked about."""

from __future__ import annotations

import random
from typing import Literal

Region = Literal["random", "prefix", "suffix"]


def choose_positions(rng: random.Random, total: int, count: int, region: Region) -> list[int]:
    """`count` of `total` positions, ascending: the first, the last, or any of them at random."""
    if region == "prefix":
        return list(range(count))
    if region == "suffix":
        return list(range(total - count, total))
    return sorted(rng.sample(range(total), count))
