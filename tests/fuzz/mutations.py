"""Valid input, damaged: bytes flipped, cut, doubled, moved, and pieces put in that parsers stumble over."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import strategies as st

from tests.fuzz.seeds import NASTY

Edit = tuple[str, float, float, bytes]
TOKEN = re.compile(rb"[^\s,:{}\[\]\"]+")


def damaged(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """One of the seeds after up to five edits."""
    places = st.floats(0, 1)
    pieces = st.one_of(st.sampled_from(NASTY), st.binary(min_size=1, max_size=8))
    edits = st.tuples(st.sampled_from(sorted(_EDITS)), places, places, pieces)
    return st.builds(_edited, st.sampled_from(seeds), st.lists(edits, min_size=1, max_size=5))


def _edited(content: bytes, edits: list[Edit]) -> bytes:
    for kind, first, second, piece in edits:
        begin, end = sorted((int(first * len(content)), int(second * len(content))))
        content = _EDITS[kind](content, begin, end, piece)
    return content


def _value_replaced(content: bytes, begin: int, _: int, piece: bytes) -> bytes:
    """The next word or number becomes something else."""
    found = TOKEN.search(content, begin)
    return content if found is None else content[: found.start()] + piece + content[found.end() :]


_EDITS: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "cut": lambda content, begin, end, _: content[:begin],
    "remove": lambda content, begin, end, _: content[:begin] + content[end:],
    "double": lambda content, begin, end, _: content[:end] + content[begin:],
    "insert": lambda content, begin, end, piece: content[:begin] + piece + content[begin:],
    "overwrite": lambda content, begin, end, piece: content[:begin] + piece + content[begin + len(piece) :],
    "flip": lambda content, begin, end, piece: (
        content[:begin] + bytes([content[begin] ^ (piece[0] or 1)]) + content[begin + 1 :]
        if begin < len(content)
        else content
    ),
    "replace": _value_replaced,
}
