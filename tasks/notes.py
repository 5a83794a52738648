"""Notes: other rows of the data set, as filler between question and answer.

The rows are neither training nor validation targets, so a note never holds a target's own question.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.tokens import Tokenizer, token_ids

if TYPE_CHECKING:
    from tasks.tokens import TokenIds

SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class Filling:
    """Notes for one prompt: their tokens, exactly as many as asked for, and their texts.

    The last note may be cut: `last` has the tokens that are left of it.
    """

    ids: TokenIds
    texts: tuple[str, ...]
    last: TokenIds


class NotePool:
    """Notes, each tokenised once."""

    def __init__(self, texts: Iterable[str], tokenizer: Tokenizer) -> None:
        self._texts = list(texts)
        self._ids = [token_ids(tokenizer.encode(text + SEPARATOR)) for text in self._texts]
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._texts)

    def fill(self, key: str, room: int) -> Filling:
        """`room` tokens of notes, drawn by `key` without repetition while they last; the last one is cut."""
        ids = [token_ids([])]
        texts = []
        for index in _draws(random.Random(f"notes|{key}"), len(self)):
            if room <= 0:
                break
            texts.append(self._texts[index])
            ids.append(self._ids[index][:room])
            room -= len(self._ids[index])
        return Filling(np.concatenate(ids), tuple(texts), ids[-1])

    def shows(self, filling: Filling, text: str) -> bool:
        """Whether `text` stands in one of the notes, in the part of it that is left."""
        if any(text in note for note in filling.texts[:-1]):
            return True
        return text in filling.texts[-1] and text in self._tokenizer.decode(filling.last.tolist())


def _draws(rng: random.Random, size: int) -> Iterator[int]:
    """Indices below `size` for ever: each once in random order, then all over again."""
    while True:
        seen: set[int] = set()
        while len(seen) < size:
            index = rng.randrange(size)
            if index not in seen:
                seen.add(index)
                yield index
