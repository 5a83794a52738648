from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_samples import Bytes

from tasks.notes import SEPARATOR, NotePool


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6), st.integers(0, 300), st.text())
def test_fill__exactly_the_room_by_key_alone(texts: list[str], room: int, key: str) -> None:
    filling = NotePool(texts, Bytes()).fill(key, room)

    assert len(filling.ids) == room
    assert filling.ids.tolist() == NotePool(texts, Bytes()).fill(key, room).ids.tolist()
    assert set(filling.texts) <= set(texts)
    joined = "".join(text + SEPARATOR for text in filling.texts).encode()
    assert joined[:room] == bytes(filling.ids.tolist())
    assert joined[:room].endswith(bytes(filling.last.tolist()))


def test_fill__every_note_once_before_any_twice() -> None:
    texts = ["a", "b", "c", "d"]
    filling = NotePool(texts, Bytes()).fill("key", 8 * len("a" + SEPARATOR))

    assert sorted(filling.texts[:4]) == sorted(filling.texts[4:]) == texts


@pytest.mark.parametrize(
    ("room", "text", "shown"),
    [
        (7, "problem", True),
        (6, "problem", False),
        (7, "tests", False),
        (17 + 2 + 17, "tests", True),
        (17 + 2 + 3, "tests", True),
        (17 + 2 + 3, "code", False),
    ],
)
def test_shows__only_what_is_left_of_the_last_note(room: int, text: str, shown: bool) -> None:
    pool = NotePool(["problem and tests"], Bytes())

    assert pool.shows(pool.fill("key", room), text) is shown


def test_pool__tokenises_each_note_once() -> None:
    tokenizer = Bytes()
    pool = NotePool(["one", "two", "three"], tokenizer)
    for number in range(50):
        pool.fill(str(number), 500)

    assert tokenizer.calls == 3
