"""The base class of all task kinds: what a plug-in writes.

A task says what its options are, which columns it reads, and what it makes of one row. Selecting rows,
limits, notes, tokens, reports and caching are the builder's work and the same for all.
"""

from __future__ import annotations

import hashlib
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from tasks.candidate import Candidate
from tasks.config import TaskConfig
from tasks.errors import DataError
from tasks.example import Example
from tasks.rows import Columns, Row
from tasks.splits import Split, hashed_split
from tasks.tokens import Tokenizer

ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class Task(ABC, Generic[ConfigT]):
    """Turns the rows of a data set into candidates for examples."""

    Config: ClassVar[type[TaskConfig]]
    summary: ClassVar[str]  # one line for people
    advice: ClassVar[Mapping[str, str]] = {}  # drop reason -> what a user can do about it

    code: ClassVar[str] = ""  # SHA-256 over the modules of the class and its bases, as they were imported

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        bases = "".join(base.code for base in cls.__bases__ if issubclass(base, Task))
        cls.code = hashlib.sha256(bases.encode() + _source(cls.__module__)).hexdigest()

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @property
    @abstractmethod
    def columns(self) -> Columns:
        """The columns this task reads."""

    @abstractmethod
    def candidate(self, row: Row) -> Candidate:
        """Layout and answer of one row; RowError(reason) drops it and counts the reason.

        Must depend on the row and the config only: `self.rng(...)` for choices.
        """

    def split_of(self, row: Row) -> Split:
        """Where a row of undivided data belongs: its standard split, else by hash."""
        return hashed_split(row.key)

    def generate(self, split: Split) -> Iterator[Row]:
        """Endless rows for a config without data; only for tasks that can make their own."""
        raise DataError(f"{self.config.kind} needs data: give data: {{path: FILE}}")

    def rng(self, key: str) -> random.Random:
        """Random choices for one row, the same in every process and on every machine."""
        return random.Random(f"{self.config.kind}|{key}".encode(errors="surrogatepass"))

    def show(self, example: Example, tokenizer: Tokenizer) -> str:
        """One example as text for people."""
        prompt, answer = (tokenizer.decode(ids.tolist()) for ids in (example.prompt, example.answer))
        return (
            f"{example.id}\n--- prompt, {len(example.prompt)} tokens:\n{prompt}\n"
            f"--- answer, {len(example.answer)} tokens:\n{answer}"
        )


def _source(module: str) -> bytes:
    """The file of a module, also one in an archive; nothing for what was typed in."""
    spec = sys.modules[module].__spec__
    reader = getattr(spec and spec.loader, "get_data", None)
    return bytes(reader(spec.origin)) if reader and spec and spec.origin else b""
