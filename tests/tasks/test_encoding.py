from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_samples import Bytes

from tasks import Candidate, Cut, NotedConfig, Notes, NotesSlot, Part, RowError
from tasks.encoding import Draft, Encoder

QUESTION, TAIL = "question?", "answer:"
CONTEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126))


def config(**options: int | Notes) -> NotedConfig:
    defaults = {"kind": "x", "train": 1, "val": 1, "max_prompt_tokens": 60, "max_answer_tokens": 4}
    return NotedConfig.model_validate(defaults | options)


def candidate(*parts: Part | NotesSlot, answer: str = "yes", choices: int | None = None) -> Candidate:
    return Candidate(content="c", prompt=parts or (Part(QUESTION),), answer=answer, choices=choices)


def draft(options: NotedConfig, one: Candidate) -> Draft:
    return Encoder(options, Bytes()).draft(one)


def text(one: Draft) -> str:
    return bytes([*one.head, *one.tail]).decode()


def reason(options: NotedConfig, one: Candidate) -> str:
    with pytest.raises(RowError) as caught:
        draft(options, one)
    return caught.value.reason


@given(CONTEXT, st.sampled_from([Cut.LEFT, Cut.RIGHT]), st.integers(16, 80), st.booleans())
def test_draft__cutting_keeps_the_question(context: str, cut: Cut, limit: int, question_first: bool) -> None:
    parts = [Part(QUESTION), Part(context, cut=cut)]
    if not question_first:
        parts.reverse()

    made = draft(config(max_prompt_tokens=limit, notes=Notes(fill=False)), candidate(*parts, Part(TAIL)))

    room = limit - len(QUESTION + TAIL)
    kept = context[:room] if cut is Cut.RIGHT else context[max(0, len(context) - room) :]
    assert text(made) == (QUESTION + kept if question_first else kept + QUESTION) + TAIL
    assert made.truncated == (len(context) > room)


def test_draft__first_cuttable_part_goes_first() -> None:
    parts = (Part("aaaa", cut=Cut.RIGHT), Part("Q"), Part("bbbb", cut=Cut.LEFT))

    made = draft(config(max_prompt_tokens=4, notes=Notes(fill=False)), candidate(*parts))

    assert text(made) == "Qbbb"


@pytest.mark.parametrize("limit", [15, 16])
def test_draft__fixed_parts_alone_too_long(limit: int) -> None:
    one = candidate(Part("context", cut=Cut.LEFT), Part(QUESTION), Part(TAIL))
    options = config(max_prompt_tokens=limit, notes=Notes(fill=False))

    if limit == 15:
        assert reason(options, one) == "prompt_too_long"
    else:
        assert text(draft(options, one)) == QUESTION + TAIL


def test_draft__notes_take_what_is_left() -> None:
    one = candidate(Part(QUESTION), NotesSlot("Notes:", ";"), Part(TAIL))

    made = draft(config(min_prompt_tokens=60), one)

    assert bytes(made.head.tolist()) == b"question?Notes:"
    assert bytes(made.tail.tolist()) == b";answer:"
    assert made.room == 60 - len("question?Notes:;answer:")
    assert not made.truncated


def test_draft__slot_vanishes_without_notes() -> None:
    one = candidate(Part(QUESTION), NotesSlot("Notes:", ";"), Part(TAIL))

    made = draft(config(notes=Notes(fill=False)), one)

    assert (text(made), made.room) == (QUESTION + TAIL, 0)


def test_draft__no_slot_no_notes() -> None:
    assert draft(config(), candidate()).room == 0


def test_draft__heading_of_notes_counts_as_fixed() -> None:
    one = candidate(Part("x" * 50), NotesSlot("Notes and remarks:"))

    assert reason(config(), one) == "prompt_too_long"


def test_draft__too_short() -> None:
    assert reason(config(min_prompt_tokens=10), candidate()) == "prompt_too_short"
    assert text(draft(config(min_prompt_tokens=9), candidate())) == QUESTION


def test_draft__free_text_answers_are_cut_symbols_dropped() -> None:
    long = draft(config(), candidate(answer="no way"))
    assert (bytes(long.answer.tolist()), long.answer_cut) == (b"no w", True)

    assert reason(config(), candidate(answer="HHEEC", choices=3)) == "answer_too_long"
    assert draft(config(), candidate(answer="HHEE", choices=3)).answer_cut is False


def test_draft__empty_answer() -> None:
    assert reason(config(), candidate(answer="")) == "empty_answer"
