"""What a round asks for: its model, its optimizer, and how long a run trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from model.shapes import ModelShape
from worker.job.values import Strict


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file!r} is no path within a repository")
    return file


class HubFile(Strict):
    """One file of a Hugging Face repository."""

    repo: str
    file: Annotated[str, AfterValidator(_inside)]
    revision: str | None = None


class RandomInit(Strict):
    """A freshly initialised model, by the official rules."""

    layers: Annotated[int, Field(gt=0, le=1000)]
    dim: Annotated[int, Field(gt=0, le=2**16)]
    vocab: Annotated[int, Field(gt=0, le=2**20)]
    head_size: Annotated[int, Field(gt=1, le=1024)] = 64
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.dim % self.head_size:
            raise ValueError(f"dim {self.dim} is not a multiple of head_size {self.head_size}")
        return self

    @property
    def shape(self) -> ModelShape:
        return ModelShape.random(self.layers, self.dim, self.vocab, self.head_size)


class HubCheckpoint(Strict):
    hub: HubFile


class RandomCheckpoint(Strict):
    random: RandomInit


def _read_checkpoint(value: Any) -> Any:
    """A path, or a mapping with one of the keys that say where the weights come from."""
    if isinstance(value, Mapping) and {"hub", "random"} <= value.keys():
        raise ValueError("has both hub and random; give one of them")
    if isinstance(value, Mapping) and "hub" in value:
        return HubCheckpoint.model_validate(value)
    if isinstance(value, Mapping) and "random" in value:
        return RandomCheckpoint.model_validate(value)
    if not isinstance(value, str | Path | HubCheckpoint | RandomCheckpoint):
        raise ValueError(
            f"expected a path, hub: {{repo, file}} or random: {{layers, dim, vocab}}, not {value!r}"
        )
    return value


class ModelConfig(Strict):
    """The model a round starts from: a file, a file on the hub, or a random initialisation."""

    checkpoint: Annotated[Path | HubCheckpoint | RandomCheckpoint, BeforeValidator(_read_checkpoint)]
    tokenizer: Literal["world", "bytes"] = "world"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        """`model: {hub: ...}` and `model: {random: ...}` are short for `model: {checkpoint: {...}}`."""
        if isinstance(data, Mapping) and "checkpoint" not in data:
            short = {key: data[key] for key in ("hub", "random") if key in data}
            if short:
                return {"checkpoint": short} | {key: data[key] for key in data if key not in short}
        return data


class OptimizerConfig(Strict):
    """AdamW and its learning-rate schedule."""

    lr: PositiveFloat = 3e-5
    weight_decay: NonNegativeFloat = 0.01
    grad_clip: NonNegativeFloat = 1.0  # 0: off
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "constant"

    @property
    def depends_on_length(self) -> bool:
        """Whether the first steps of a longer run differ from those of a shorter one."""
        return self.schedule == "cosine"


class Budget(Strict):
    """How long a job trains, and how often it is evaluated: steps, seconds, or whichever ends first."""

    steps: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    eval_every: PositiveInt = 20

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if self.steps is None and self.seconds is None:
            raise ValueError("give steps, seconds or both")
        return self

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due after this many steps."""
        return step % self.eval_every == 0 or step == self.steps
