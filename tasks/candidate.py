"""What a task makes of one row: the layout of the prompt and the answer, still as text."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from enum import StrEnum


class Cut(StrEnum):
    """Which end of a part may be dropped when the prompt is too long."""

    NEVER = "never"  # question, options, tests: the row is dropped rather than the part cut
    LEFT = "left"  # the end stays
    RIGHT = "right"  # the beginning stays


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the prompt, tokenised on its own; `symbols` gives one token a character."""

    text: str
    symbols: bool = False
    cut: Cut = Cut.NEVER


@dataclass(frozen=True, slots=True)
class NotesSlot:
    """Where notes go, at most once in a prompt; the whole slot vanishes when notes are off."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible example.

    content: what makes two rows the same question; rows of equal content are never used twice.
    choices: symbols that each answer position can take, one token each; None for free text.
    extractive: whether the answer is meant to stand in the prompt; elsewhere that counts as a leak.
    note: this row as a note in other prompts; None if it makes none.
    id: name of the row in its data set; "" for a name made from the content.
    """

    content: str
    prompt: tuple[Part | NotesSlot, ...]
    answer: str
    choices: int | None = None
    extractive: bool = False
    note: str | None = None
    id: str = ""

    def __post_init__(self) -> None:
        """Raises TypeError for parts that are not what they say; a plug-in need not have been type-checked."""
        texts = [self.content, self.answer, self.id, "" if self.note is None else self.note]
        if not isinstance(self.prompt, tuple | list):
            raise TypeError(f"prompt: expected a tuple of Part and NotesSlot, not {self.prompt!r}")
        for part in self.prompt:
            if not isinstance(part, Part | NotesSlot):
                raise TypeError(f"prompt: expected Part or NotesSlot, not {part!r}")
            texts += [part.text] if isinstance(part, Part) else [part.before, part.after]
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"expected text, not {text!r}")
        if self.choices is not None and (type(self.choices) is not int or self.choices < 1):
            raise TypeError(f"choices: expected a number of symbols or None, not {self.choices!r}")

    @property
    def all_text(self) -> str:
        """Everything that will be hashed or tokenised."""
        return "".join([self.id, self.content, self.answer, self.note or "", self.own_text])

    @property
    def own_text(self) -> str:
        """The prompt without notes."""
        return "".join(part.text for part in self.prompt if isinstance(part, Part))

    @property
    def name(self) -> str:
        """The id, or the first 16 hex digits of the content's SHA-256."""
        return self.id or hashlib.sha256(self.key.encode()).hexdigest()[:16]

    @property
    def key(self) -> str:
        """The content without differences in white space, case and the ways to write one character."""
        return " ".join(unicodedata.normalize("NFC", self.content).split()).casefold()

    @property
    def prompt_key(self) -> str:
        """SHA-256 of what is asked: rows of different content may ask the same, such as chains that begin alike."""
        return hashlib.sha256(self.own_text.encode()).hexdigest()
