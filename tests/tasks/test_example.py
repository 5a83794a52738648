from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks import Candidate
from tasks.example import Example, digest
from tasks.tokens import token_ids

examples = st.builds(
    Example,
    st.text(max_size=3),
    st.lists(st.integers(0, 65535), max_size=3).map(token_ids),
    st.lists(st.integers(0, 65535), max_size=3).map(token_ids),
)
splits = st.lists(st.lists(examples, max_size=3), min_size=2, max_size=2)


def plain(built: list[list[Example]]) -> list[list[tuple[str, list[int], list[int]]]]:
    return [[(one.id, one.prompt.tolist(), one.answer.tolist()) for one in split] for split in built]


@given(splits, splits)
def test_digest__equal_exactly_for_equal_examples(
    one: list[list[Example]], other: list[list[Example]]
) -> None:
    assert (digest(one) == digest(other)) == (plain(one) == plain(other))


def test_digest__boundaries_count() -> None:
    ab = Example("ab", token_ids([1, 2]), token_ids([3]))
    moved = [
        [[ab], []],
        [[], [ab]],
        [[Example("a", token_ids([1, 2]), token_ids([3]))], []],
        [[Example("ab", token_ids([1]), token_ids([2, 3]))], []],
        [[Example("ab", token_ids([]), token_ids([1, 2, 3]))], []],
    ]

    assert len({digest(one) for one in moved}) == len(moved)


def test_key__is_the_same_however_a_character_is_written() -> None:
    composed, decomposed = (
        Candidate(content=text, prompt=(), answer="") for text in ("Caf\u00e9", "cafe\u0301")
    )
    assert composed.key == decomposed.key
    assert composed.key != Candidate(content="cafe", prompt=(), answer="").key
