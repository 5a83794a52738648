"""Layout to tokens, within the limits of the config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.candidate import Candidate, Cut, NotesSlot, Part
from tasks.config import NotedConfig, TaskConfig
from tasks.errors import RowError
from tasks.tokens import Tokenizer, token_ids

if TYPE_CHECKING:
    from tasks.tokens import TokenIds


@dataclass(frozen=True, slots=True)
class Draft:
    """An accepted candidate in tokens, all but its notes, which take `room` tokens between head and tail."""

    candidate: Candidate
    head: TokenIds
    tail: TokenIds
    room: int
    answer: TokenIds
    truncated: bool
    answer_cut: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    ids: list[int]
    cut: Cut


class Encoder:
    """Tokenises candidates and holds them to the limits."""

    def __init__(self, config: TaskConfig, tokenizer: Tokenizer) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self.notes = config.notes if isinstance(config, NotedConfig) and config.notes.fill else None

    def draft(self, candidate: Candidate) -> Draft:
        """The candidate in tokens; RowError where a limit does not allow it."""
        answer, answer_cut = self._answer(candidate)
        head, tail, noted = self._prompt(candidate.prompt)
        length = sum(len(piece.ids) for piece in head + tail)
        excess = max(0, length - self._config.max_prompt_tokens)
        room = max(0, self._config.max_prompt_tokens - length) if noted else 0
        if length + room < self._config.min_prompt_tokens:
            raise RowError("prompt_too_short")
        head_ids, tail_ids = _shorten(head, tail, excess)
        return Draft(candidate, head_ids, tail_ids, room, answer, excess > 0, answer_cut)

    def _answer(self, candidate: Candidate) -> tuple[TokenIds, bool]:
        limit = self._config.max_answer_tokens
        if candidate.choices is None:
            ids = self._tokenizer.encode(candidate.answer)
        else:
            ids = self._symbols(candidate.answer)
            if len(ids) > limit:
                raise RowError("answer_too_long")
        if not ids:
            raise RowError("empty_answer")
        return token_ids(ids[:limit]), len(ids) > limit

    def _prompt(self, prompt: Sequence[Part | NotesSlot]) -> tuple[list[_Piece], list[_Piece], bool]:
        """Pieces before and after the notes, and whether there will be notes."""
        head: list[_Piece] = []
        after: list[_Piece] | None = None
        for part in prompt:
            current = head if after is None else after
            if isinstance(part, Part):
                current.append(self._piece(part))
            elif self.notes is not None:
                current.append(self._piece(Part(part.before)))
                after = [self._piece(Part(part.after))]
        return head, after or [], after is not None

    def _piece(self, part: Part) -> _Piece:
        encode = self._symbols if part.symbols else self._tokenizer.encode
        return _Piece(encode(part.text), part.cut)

    def _symbols(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode_symbols(text)
        except ValueError:
            raise RowError("symbol_not_one_token") from None


def _shorten(head: list[_Piece], tail: list[_Piece], excess: int) -> tuple[TokenIds, TokenIds]:
    """Both sides joined, `excess` tokens taken from the parts that may be cut, first part first."""
    joined: list[list[int]] = [[], []]
    for side, pieces in enumerate((head, tail)):
        for piece in pieces:
            drop = 0 if piece.cut is Cut.NEVER else min(excess, len(piece.ids))
            excess -= drop
            kept = piece.ids[drop:] if piece.cut is Cut.LEFT else piece.ids[: len(piece.ids) - drop]
            joined[side] += kept
    if excess:
        raise RowError("prompt_too_long")
    return token_ids(joined[0]), token_ids(joined[1])
