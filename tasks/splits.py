"""Which rows are for training and which for validation."""

from __future__ import annotations

import hashlib
from enum import StrEnum


class Split(StrEnum):
    """What a row may be used for."""

    TRAIN = "train"
    VAL = "val"
    REST = "rest"  # neither; notes may be made of it


def hashed_split(key: str) -> Split:
    """A fifth of all keys to val: where the first 8 hex digits of the SHA-256, modulo 10, are 8 or 9."""
    first = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:8]
    return Split.VAL if int(first, 16) % 10 >= 8 else Split.TRAIN
