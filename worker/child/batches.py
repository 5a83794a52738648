"""Which examples make up which batch: a seeded permutation of the training set, bucketed by length.

Pure: the batch of a step follows from (lengths, batch size, seed, step) alone, so every arm sees the same
data, and a run continues at any step without replaying the earlier ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

BATCHES_PER_BUCKET = 8
# if it has so many batches: with one bucket, the same examples would share a batch whatever the seed
BUCKETS_PER_EPOCH = 4


class BatchOrder:
    """The endless sequence of training batches of one seed.

    Each epoch permutes the examples, sorts windows of BATCHES_PER_BUCKET batches by length (of fewer, where the epoch
    is short), cuts them into batches and shuffles those; every example comes once an epoch. A last, smaller batch is
    filled up with the first other examples of the epoch, so that all batches have the same size.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = tuple(lengths)
        self._size = min(batch_size, len(lengths))
        self._seed = seed
        self.batches_per_epoch = -(-len(lengths) // self._size)
        self._epoch = lru_cache(maxsize=1)(self._make_epoch)

    def batch(self, step: int) -> tuple[int, ...]:
        """The indices of the examples of a step (counted from 0)."""
        epoch, position = divmod(step, self.batches_per_epoch)
        return self._epoch(epoch)[position]

    def _make_epoch(self, epoch: int) -> list[tuple[int, ...]]:
        rng = random.Random(f"fsq batches {self._seed} {epoch}")
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        window = self._size * min(BATCHES_PER_BUCKET, max(1, self.batches_per_epoch // BUCKETS_PER_EPOCH))
        batches = [
            batch
            for start in range(0, len(order), window)
            for batch in self._cut(sorted(order[start : start + window], key=self._lengths.__getitem__))
        ]
        others = (index for index in order if index not in batches[-1])
        batches[-1] += tuple(islice(others, self._size - len(batches[-1])))
        rng.shuffle(batches)
        return batches

    def _cut(self, indices: Sequence[int]) -> Iterator[tuple[int, ...]]:
        for start in range(0, len(indices), self._size):
            yield tuple(indices[start : start + self._size])


def evaluation_batches(lengths: Sequence[tuple[int, int]], max_tokens: int) -> Iterator[tuple[int, ...]]:
    """Every example once, longest first, in batches of at most `max_tokens` positions after padding.

    lengths: of prompt and answer, which are padded each to the longest of a batch.
    """
    batch: list[int] = []
    prompt = answer = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-sum(lengths[i]), i)):
        prompt, answer = max(prompt, lengths[index][0]), max(answer, lengths[index][1])
        if batch and (len(batch) + 1) * (prompt + answer) > max_tokens:
            yield tuple(batch)
            batch, (prompt, answer) = [], lengths[index]
        batch.append(index)
    if batch:
        yield tuple(batch)


def padded_positions(lengths: Sequence[tuple[int, int]]) -> int:
    """What a batch of examples with these lengths of prompt and answer takes after padding."""
    return len(lengths) * (max(prompt for prompt, _ in lengths) + max(answer for _, answer in lengths))
