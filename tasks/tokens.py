"""What this package asks of a tokenizer; `model.tokenizers` has the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    TokenIds: TypeAlias = NDArray[np.int32]


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def name(self) -> str:
        """Short name; two tokenizers of one name encode alike."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, which holds no lone surrogates."""

    def encode_symbols(self, text: str) -> list[int]:
        """Token ids of `text`, exactly one a character; ValueError for a character that is not one token."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; incomplete UTF-8 becomes the replacement character."""


def token_ids(ids: Sequence[int]) -> TokenIds:
    """`ids` as an int32 array."""
    import numpy as np

    return np.array(ids, dtype=np.int32)
