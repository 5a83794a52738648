from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.splits import Split, hashed_split


def test_hashed_split__known_values() -> None:
    # sha256: abc -> ba7816bf = 3128432319, modulo 10 is 9; the empty text -> e3b0c442 = 3820012610, 0
    assert hashed_split("abc") is Split.VAL
    assert hashed_split("") is Split.TRAIN


def test_hashed_split__a_fifth_is_validation() -> None:
    share = sum(hashed_split(str(number)) is Split.VAL for number in range(5000)) / 5000

    assert 0.18 < share < 0.22


@given(st.text(st.characters(codec=None)))
def test_hashed_split__takes_any_text(key: str) -> None:
    assert hashed_split(key) in (Split.TRAIN, Split.VAL)
