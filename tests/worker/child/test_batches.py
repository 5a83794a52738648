"""The order of batches: every example once an epoch, the same for every arm, bucketed by length."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.child.batches import BatchOrder, evaluation_batches, padded_positions

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=100)


@given(lengths, st.integers(1, 16), st.integers(0, 5), st.integers(0, 3))
def test_batch_order__every_example_once_an_epoch(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    order = BatchOrder(lengths, batch_size, seed)
    first = epoch * order.batches_per_epoch
    batches = [order.batch(step) for step in range(first, first + order.batches_per_epoch)]
    size = min(batch_size, len(lengths))
    assert {len(batch) for batch in batches} == {len(set(batch)) for batch in batches} == {size}
    counts = Counter(index for batch in batches for index in batch)
    assert set(counts) == set(range(len(lengths)))
    assert sum(counts.values()) - len(lengths) < size  # only the last batch is filled up


@given(lengths, st.integers(1, 16), st.integers(0, 5), st.integers(0, 50))
def test_batch_order__depends_on_nothing_but_its_arguments(
    lengths: list[int], batch_size: int, seed: int, step: int
) -> None:
    walked = BatchOrder(lengths, batch_size, seed)
    for earlier in range(step):
        walked.batch(earlier)
    assert walked.batch(step) == BatchOrder(lengths, batch_size, seed).batch(step)


def test_batch_order__seeds_and_epochs_differ() -> None:
    order = [10] * 64
    one = [BatchOrder(order, 8, 0).batch(step) for step in range(16)]
    two = [BatchOrder(order, 8, 1).batch(step) for step in range(16)]
    assert one != two
    assert one[:8] != one[8:]


@pytest.mark.parametrize("batches", [2, 5, 8, 12, 40])
def test_batch_order__seeds_differ_in_what_shares_a_batch(batches: int) -> None:
    """However few there are, and though no two examples are of one length: only the order would be chance else."""
    lengths = range(1, 8 * batches + 1)
    found = {
        frozenset(BatchOrder(lengths, 8, seed).batch(step)) for seed in range(10) for step in range(batches)
    }
    assert len(found) > 0.9 * 10 * batches


def test_batch_order__shuffles_the_batches_of_a_window() -> None:
    """Sorted by length, short examples would always come before long ones."""
    order = BatchOrder(range(8 * 32), 8, 0)
    longest = [max(order.batch(step)) for step in range(8)]
    assert longest != sorted(longest)


def test_batch_order__little_padding() -> None:
    lengths = [1 + (97 * i) % 1000 for i in range(1000)]
    order = BatchOrder(lengths, 8, 0)
    batches = [order.batch(step) for step in range(order.batches_per_epoch)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 100)), max_size=100), st.integers(1, 2000))
def test_evaluation_batches__each_once_within_the_limit(lengths: list[tuple[int, int]], limit: int) -> None:
    batches = list(evaluation_batches(lengths, limit))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        prompts, answers = zip(*(lengths[i] for i in batch), strict=True)
        padded = len(batch) * (max(prompts) + max(answers))
        assert padded_positions([lengths[i] for i in batch]) == padded
        assert len(batch) == 1 or padded <= limit


def test_evaluation_batches__as_large_as_may_be() -> None:
    assert list(evaluation_batches([(8, 2)] * 5, 20)) == [(0, 1), (2, 3), (4,)]
    assert list(evaluation_batches([(9, 1), (1, 9)], 35)) == [(0,), (1,)]


def test_evaluation_batches__longest_first() -> None:
    assert list(evaluation_batches([(1, 1), (8, 2), (3, 2)], 10)) == [(1,), (2, 0)]
