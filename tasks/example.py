"""An example: what the model reads and what it should answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.tokens import TokenIds


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One prompt and its answer as token ids, both (length,) int32."""

    id: str
    prompt: TokenIds
    answer: TokenIds


def digest(splits: Iterable[Sequence[Example]]) -> str:
    """SHA-256 (hex) over ids and token ids of all examples, in order."""
    total = hashlib.sha256()
    for split in splits:
        total.update(b"split")
        for example in split:
            for part in (example.id.encode(), _little_endian(example.prompt), _little_endian(example.answer)):
                total.update(len(part).to_bytes(8, "little"))
                total.update(part)
    return total.hexdigest()


def _little_endian(ids: TokenIds) -> bytes:
    return ids.astype("<i4").tobytes()
