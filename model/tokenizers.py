"""Text to token ids and back: raw bytes, or the World vocabulary of the released RWKV models."""

import ast
from collections.abc import Iterable
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Protocol

from model.errors import TokenizerError

if TYPE_CHECKING:
    from pyrwkv_tokenizer import RWKVTokenizer


class Tokenizer(Protocol):
    """What tasks and training need from a vocabulary."""

    name: str
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. Raises `TokenizerError` for a text that is not valid Unicode."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; what is no UTF-8 becomes U+FFFD.

        Raises `TokenizerError` for ids out of range.
        """

    def encode_symbols(self, text: str) -> list[int]:
        """Return one id per character, never merging neighbours.

        Raises `TokenizerError` for a character that is not exactly one token.
        """


class Bytes:
    """The 256 bytes of UTF-8."""

    name = "bytes"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text))

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(_in_range(ids, self)).decode(errors="replace")

    def encode_symbols(self, text: str) -> list[int]:
        return _one_token_each(text, self)


class World:
    """The World vocabulary, greedy longest match: ids 1 to 65,529, and 0 for the end of a text.

    Models are 65,536 wide; the ids above 65,529 have no text and decode to U+FFFD.
    """

    name = "world"
    vocab_size = 65536

    @cached_property
    def _encoder(self) -> "RWKVTokenizer":
        from pyrwkv_tokenizer import RWKVTokenizer  # builds its table: only on first use

        return RWKVTokenizer()

    @cached_property
    def _lines(self) -> dict[int, str]:
        """The vocabulary file, `id literal length` a line: the library's decoder aborts on broken UTF-8."""
        table = resources.files("pyrwkv_tokenizer") / "rwkv_vocab_v20230424.txt"
        lines = (line.partition(" ") for line in table.read_text(encoding="utf-8").split("\n") if line)
        return {int(token): rest.rpartition(" ")[0] for token, _, rest in lines}

    def _token_bytes(self, token: int) -> bytes:
        if token == 0:
            return b""
        if token not in self._lines:
            return "\ufffd".encode()
        literal: str | bytes = ast.literal_eval(self._lines[token])
        return literal.encode() if isinstance(literal, str) else literal

    def encode(self, text: str) -> list[int]:
        return list(self._encoder.encode(_utf8(text).decode()))

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self._token_bytes, _in_range(ids, self))).decode(errors="replace")

    def encode_symbols(self, text: str) -> list[int]:
        return _one_token_each(text, self)


_TOKENIZERS: dict[str, Tokenizer] = {tokenizer.name: tokenizer for tokenizer in (Bytes(), World())}


def get_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer called `bytes` or `world`, the same one each time: the table of `world` is slow to build.

    Raises `TokenizerError` for any other name.
    """
    if name not in _TOKENIZERS:
        raise TokenizerError(f"unknown tokenizer {name!r}: expected one of {', '.join(_TOKENIZERS)}")
    return _TOKENIZERS[name]


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {text[error.start]!r} at position {error.start} is half a surrogate pair: "
            "expected valid Unicode; repair the text where it is read"
        ) from error


def _one_token_each(text: str, tokenizer: Tokenizer) -> list[int]:
    ids = []
    for position, symbol in enumerate(text):
        symbol_ids = tokenizer.encode(symbol)
        if len(symbol_ids) != 1:
            raise TokenizerError(
                f"symbol {symbol!r} (U+{ord(symbol):04X}) at position {position} is {len(symbol_ids)} tokens "
                f"of {tokenizer.name}: expected exactly one; choose symbols that are single tokens"
            )
        ids += symbol_ids
    return ids


def _in_range(ids: Iterable[int], tokenizer: Tokenizer) -> list[int]:
    ids = list(ids)
    for position, token in enumerate(ids):
        if not 0 <= token < tokenizer.vocab_size:
            raise TokenizerError(
                f"token {token} at position {position} is outside the {tokenizer.name} vocabulary: "
                f"expected 0 to {tokenizer.vocab_size - 1}"
            )
    return ids
