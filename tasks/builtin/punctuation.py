"""Punctuation: restore the punctuation marks and capitals of a text, from any data set that has text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.candidate import Candidate, NotesSlot, Part
from tasks.config import (
    AnswerLimit,
    BatchSize,
    Count,
    Data,
    HubData,
    NotedConfig,
    Notes,
    PoolSize,
    PromptFloor,
    PromptLimit,
    TrainCount,
    ValCount,
)
from tasks.errors import RowError
from tasks.rows import Columns, Row
from tasks.task import Task

WIKITEXT = HubData(
    repo="Salesforce/wikitext", config="wikitext-2-raw-v1", train_split="train", val_split="validation"
)

MARKS = '.,;:!?"()[]{}'
WITHOUT_MARKS = str.maketrans(dict.fromkeys(MARKS, " "))
LEAST_LETTERS = 24
JOINED_COLUMNS = ("question", "answer", "instruction", "prompt", "output")


class PunctuationNotes(Notes):
    """Notes made of other texts."""

    pool_size: PoolSize = 1024


class PunctuationConfig(NotedConfig):
    """Options of `punctuation`."""

    kind: Annotated[Literal["punctuation"], Field(description="punctuation")] = "punctuation"
    data: Annotated[Data, Field(description="Any rows with text.")] = Data(hub=WIKITEXT)
    train: TrainCount = 1200
    val: ValCount = 240
    batch_size: BatchSize = 4
    max_prompt_tokens: PromptLimit = 2048
    min_prompt_tokens: PromptFloor = 768
    max_answer_tokens: AnswerLimit = 180
    notes: Annotated[PunctuationNotes, Field(description="Filler before the transcript.")] = (
        PunctuationNotes()
    )
    field: Annotated[
        str | None,
        Field(
            description="Column with the text, also a path into it such as question.stem; if not given, "
            f"text, or else {', '.join(JOINED_COLUMNS)}: those that are there, joined.",
        ),
    ] = None
    min_chars: Annotated[Count, Field(description="Shortest text, in characters.")] = 64
    max_chars: Annotated[Count, Field(description="Longest text, in characters.")] = 220

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars ({self.min_chars}) exceeds max_chars ({self.max_chars})")
        if self.field == "":
            raise ValueError("field names no column")
        return self


class Punctuation(Task[PunctuationConfig]):
    """Notes, the text in lower case without punctuation marks, "Answer:"; the answer is a space and the text.

    White space is one space everywhere, so that a gap does not give a mark away. A text must be as long as
    configured, have a mark, and letters enough: 24, and a third of its characters. Notes are other texts.
    """

    Config = PunctuationConfig
    summary: ClassVar[str] = "restore punctuation and capitals; answer: the text as it was written"
    advice: ClassVar[Mapping[str, str]] = {
        "text_too_short": "lower min_chars",
        "text_too_long": "raise max_chars",
    }

    @property
    def columns(self) -> Columns:
        """The configured column, or whichever of the usual ones there are."""
        if self.config.field is not None:
            field = self.config.field
            # a name with dots is a path, unless a column has it
            return Columns(
                required={"text": (field, field.split(".")[0])},
                optional={"id": ("id",), "field": (field,)},
            )
        # one of them must be there, and all that are there are read
        alternatives = {name: (name,) for name in ("text", *JOINED_COLUMNS)}
        return Columns(required={"some text": tuple(alternatives)}, optional={"id": ("id",), **alternatives})

    def candidate(self, row: Row) -> Candidate:
        """Notes, transcript and task."""
        text = " ".join(self._text(row).split())
        if len(text) < self.config.min_chars:
            raise RowError("text_too_short")
        if len(text) > self.config.max_chars:
            raise RowError("text_too_long")
        if not any(mark in text for mark in MARKS):
            raise RowError("no_punctuation")
        if sum(map(str.isalpha, text)) < max(LEAST_LETTERS, len(text) / 3):
            raise RowError("too_few_letters")
        noisy = " ".join(text.translate(WITHOUT_MARKS).lower().split())
        return Candidate(
            id=row.id,
            content=noisy,
            prompt=(
                NotesSlot(before="Background notes:\n", after="\n\n"),
                Part(f"Noisy transcript:\n{noisy}\n\nTask: Restore punctuation and casing.\n\nAnswer:"),
            ),
            answer=f" {text}",
            note=text,
        )

    def _text(self, row: Row) -> str:
        if self.config.field is not None:
            path = [] if "field" in row.values else self.config.field.split(".")[1:]
            return _one_text(row, path)
        if row.get("text") not in (None, ""):
            return row.text("text")
        texts = [value for name in JOINED_COLUMNS if isinstance(value := row.get(name), str)]
        if not "".join(texts).strip():
            raise RowError("no_text")
        return " ".join(texts)


def _one_text(row: Row, path: list[str]) -> str:
    """The text at the end of a path; the texts of a list are joined."""
    value = row.get("text")
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    texts = list(_texts(value))
    if not "".join(texts).strip():
        raise RowError("no_text")
    return " ".join(texts)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif value is not None:
        raise RowError("text_not_text")
