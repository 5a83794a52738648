from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from task_samples import Bytes

from tasks.notes import SEPARATOR, NotePool


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6), st.integers(0, 300), st.text())
def test_fill__exactly_the_room_by_key_alone(texts: list[str], room: int, key: str) -> None:
    filling = NotePool(texts, Bytes()).fill(key, room)

    assert len(filling.ids) == room
    assert filling.ids.tolist() == NotePool(texts, Bytes()).fill(key, room).ids.tolist()
    *whole, last = filling.texts or ("",)
    assert set(whole) <= set(texts)
    assert filling.texts or room == 0
    if room:
        assert any((text + SEPARATOR).startswith(last.rstrip("\ufffd")) for text in texts)


def test_fill__every_note_once_before_any_twice() -> None:
    texts = ["a", "b", "c", "d"]
    filling = NotePool(texts, Bytes()).fill("key", 8 * len("a" + SEPARATOR))

    assert sorted(filling.texts[:4]) == sorted(filling.texts[4:]) == texts


def test_fill__last_note_is_cut_in_text_too() -> None:
    filling = NotePool(["problem and tests"], Bytes()).fill("key", 7)

    assert filling.texts == ("problem",)


def test_pool__tokenises_each_note_once() -> None:
    tokenizer = Bytes()
    pool = NotePool(["one", "two", "three"], tokenizer)
    for number in range(50):
        pool.fill(str(number), 500)

    assert tokenizer.calls == 3
