from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.builtin.regions import Region, choose_positions


@pytest.mark.parametrize(("region", "positions"), [("prefix", [0, 1, 2]), ("suffix", [7, 8, 9])])
def test_choose_positions__ends(region: Region, positions: list[int]) -> None:
    assert choose_positions(random.Random(0), 10, 3, region) == positions


@given(st.integers(0, 50), st.integers(0, 50), st.integers())
def test_choose_positions__random(count: int, more: int, seed: int) -> None:
    positions = choose_positions(random.Random(seed), count + more, count, "random")

    assert positions == sorted(set(positions))
    assert len(positions) == count
    assert set(positions) <= set(range(count + more))
