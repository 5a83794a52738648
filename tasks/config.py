"""Options of a task, as a round file spells them; each kind derives its own class and adds to it.

What is common to all kinds stands here. Validation is strict and unknown keys are errors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# Far beyond every use; they keep a slip of the finger from filling the memory.
MAX_COUNT = 1_000_000_000
MAX_EXAMPLES = 1_000_000  # of one split
MAX_TOKENS = 1_000_000  # of one prompt or answer
MAX_FILLED_TOKENS = 2**30  # of all prompts that are filled with notes: 4 GiB

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
TrainCount = Annotated[int, Field(ge=1, le=MAX_EXAMPLES, description="Number of training examples.")]
ValCount = Annotated[int, Field(ge=1, le=MAX_EXAMPLES, description="Number of validation examples.")]
ValOffset = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_EXAMPLES,
        description="Validation examples to pass over.",
    ),
]
ValSelected = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_EXAMPLES,
        description="Further ones to pass over: a confirm stage sets it to those that the selection was measured on.",
    ),
]
BatchSize = Annotated[
    int, Field(ge=1, le=MAX_EXAMPLES, description="Examples a training step; not part of the examples.")
]
PromptLimit = Annotated[int, Field(ge=1, le=MAX_TOKENS, description="Longest prompt, in tokens.")]
PromptFloor = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_TOKENS,
        description="Shortest prompt, in tokens; shorter rows are dropped. If not given, never more than "
        "max_prompt_tokens, and 0 where notes could fill the prompt but do not.",
    ),
]
AnswerLimit = Annotated[
    int,
    Field(
        ge=1,
        le=MAX_TOKENS,
        description="Longest answer, in tokens; free text is cut there, longer symbol answers drop.",
    ),
]


class _Options(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
REPOSITORY = rf"^{_NAME}(/{_NAME})?$"
CONFIGURATION = r"^[^<>:/\\|?*.\x00-\x1f][^<>:/\\|?*\x00-\x1f]*$"  # as the hub has it; becomes part of a path
REVISION = rf"^{_NAME}(/{_NAME})*$"  # becomes part of a path: no part may begin with a dot


class HubData(_Options):
    """A data set on the Hugging Face hub."""

    repo: Annotated[str, Field(pattern=REPOSITORY, max_length=96, description="Repository, owner/name.")]
    config: Annotated[
        str | None, Field(pattern=CONFIGURATION, max_length=200, description="Configuration of the data set.")
    ] = None
    split: Annotated[str | None, Field(description="The one split to divide into train and val.")] = None
    train_split: Annotated[str | None, Field(description="Split that training examples come from.")] = None
    val_split: Annotated[str | None, Field(description="Split that validation examples come from.")] = None
    revision: Annotated[
        str | None,
        Field(pattern=REVISION, max_length=200, description="Commit, branch or tag; best a commit."),
    ] = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        pair = (self.train_split, self.val_split)
        if (self.split is not None and pair == (None, None)) or (self.split is None and None not in pair):
            return self
        raise ValueError("give either split, or both train_split and val_split")


DataPath = Annotated[Path, Field(strict=False)]


class Data(_Options):
    """Where rows come from: one file, a file for each split, or the hub."""

    path: Annotated[DataPath | None, Field(description="One file (jsonl, csv, txt, parquet).")] = None
    train: Annotated[DataPath | None, Field(description="File of the training rows.")] = None
    val: Annotated[DataPath | None, Field(description="File of the validation rows.")] = None
    hub: Annotated[HubData | None, Field(description="Data set on the Hugging Face hub.")] = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = {name for name in ("path", "train", "val", "hub") if getattr(self, name) is not None}
        if given in ({"path"}, {"train", "val"}, {"hub"}):
            return self
        raise ValueError("give exactly one of: path; train and val; hub")

    @property
    def files(self) -> dict[str, Path]:
        """The files that are named, by the option that names them."""
        named = {"path": self.path, "train": self.train, "val": self.val}
        return {option: path for option, path in named.items() if path is not None}

    def resolved(self, directory: Path) -> Data:
        """The same data with relative paths taken from `directory`."""
        update = {option: directory / _expanded(path) for option, path in self.files.items()}
        return self.model_copy(update=update)


def _expanded(path: Path) -> Path:
    """With ~ as somebody's home folder, if there is such a user; the other way to do it raises if there is none."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


PoolSize = Annotated[Count, Field(description="At most this many rows to draw notes from.")]


class Notes(_Options):
    """Filler between question and answer, made of other rows."""

    fill: Annotated[bool, Field(description="Fill every prompt to max_prompt_tokens with notes.")] = True
    pool_size: PoolSize = 2048


class TaskConfig(_Options):
    """Options that all kinds share; a kind overrides the defaults."""

    kind: Annotated[str, Field(description="Name of the task kind.")]
    data: Annotated[Data | None, Field(description="Where the rows come from.")] = None
    train: TrainCount
    val: ValCount
    val_offset: ValOffset = 0
    val_selected: ValSelected = 0
    batch_size: BatchSize = 8
    max_prompt_tokens: PromptLimit
    min_prompt_tokens: PromptFloor = 0
    max_answer_tokens: AnswerLimit

    @model_validator(mode="before")
    @classmethod
    def _no_notes_are_no_notes(cls, options: Any) -> Any:
        """A kind whose prompts cannot carry notes may be told to leave them out."""
        if "notes" in cls.model_fields or not isinstance(options, Mapping):
            return options
        notes = options.get("notes")
        if not isinstance(notes, Mapping) or notes.get("fill") is not False:
            return options
        try:
            Notes.model_validate(notes)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            raise ValueError(f"notes.{wrong['loc'][0]}: {wrong['msg']}") from None
        return {name: value for name, value in options.items() if name != "notes"}

    @property
    def examples_a_step(self) -> int:
        """The batch size, or all training examples where there are fewer."""
        return min(self.batch_size, self.train)

    @model_validator(mode="before")
    @classmethod
    def _fit_default_floor(cls, options: Any) -> Any:
        """A floor that nobody gave does not collide with a ceiling that somebody did."""
        if not isinstance(options, Mapping) or "min_prompt_tokens" in options:
            return options
        ceiling = options.get("max_prompt_tokens")
        floor = cls.model_fields["min_prompt_tokens"].default
        if type(ceiling) is int and 0 < ceiling < floor:
            return {**options, "min_prompt_tokens": ceiling}
        return options

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> Self:
        if self.min_prompt_tokens > self.max_prompt_tokens:
            raise ValueError(
                f"min_prompt_tokens ({self.min_prompt_tokens}) exceeds "
                f"max_prompt_tokens ({self.max_prompt_tokens})"
            )
        return self

    def resolved(self, directory: Path) -> Self:
        """The same options with relative data paths taken from `directory`, where the round file lies."""
        if self.data is None:
            return self
        return self.model_copy(update={"data": self.data.resolved(directory)})

    def at_revision(self, commit: str | None) -> Self:
        """The same options with their hub data at a commit; None changes nothing."""
        if commit is None or self.data is None or self.data.hub is None:
            return self
        hub = self.data.hub.model_copy(update={"revision": commit})
        return self.model_copy(update={"data": self.data.model_copy(update={"hub": hub})})


class NotedConfig(TaskConfig):
    """Options of a kind whose prompts can carry notes."""

    notes: Annotated[Notes, Field(description="Filler between question and answer.")] = Notes()

    @model_validator(mode="before")
    @classmethod
    def _no_default_floor_without_notes(cls, options: Any) -> Any:
        """The default floor is meant for filled prompts."""
        if not isinstance(options, Mapping) or "min_prompt_tokens" in options:
            return options
        notes = options.get("notes")
        fill = notes.get("fill") if isinstance(notes, Mapping) else getattr(notes, "fill", None)
        return {**options, "min_prompt_tokens": 0} if fill is False else options

    @model_validator(mode="after")
    def _filled_prompts_fit_into_memory(self) -> Self:
        tokens = (self.train + self.val) * self.max_prompt_tokens
        if self.notes.fill and tokens > MAX_FILLED_TOKENS:
            raise ValueError(
                f"train + val prompts filled with notes to max_prompt_tokens have {tokens:,} tokens, more than "
                f"{MAX_FILLED_TOKENS:,}; lower one of the three, or set notes: {{fill: false}}"
            )
        return self
