"""The round as it was written: what a researcher asks for, validated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationInfo,
    model_validator,
)

from orchestrator.paths import expanded
from orchestrator.rounds.chains import When
from orchestrator.rounds.consistency import CONTROL_ARM, Inconsistent, conflicts
from orchestrator.rounds.variants import AnyVariant, Name, Selection, Variant, read_variants
from orchestrator.rules import AnyRule, Threshold
from orchestrator.search import Confirmation, SearchSpec
from orchestrator.statistics.variants import control_runs
from worker.job import (
    AnyTaskConfig,
    Budget,
    ModelConfig,
    OptimizerConfig,
    Strict,
    TaskConfig,
    sha256_of,
)

MAX_JOBS = 100_000  # of a round
MOST_FRESH = 1000  # seeds of a confirm stage
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Confirm(Strict):
    """How a stage confirms what was selected before it."""

    # fresh ones; fewer than five never reach p < 0.05 by sign
    seeds: Annotated[int, Field(ge=2, le=MOST_FRESH)] = 5
    val: Annotated[int, Field(ge=2)] | None = None  # validation examples; None: as many as the task has
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05  # share of false ones among the confirmed, at most


class Stage(Budget):
    """A rung with a budget of its own; one that has the key `confirm` confirms."""

    name: Name
    confirm: Confirm | None = None

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        if self.name == "decision":
            raise ValueError("'decision' is what decision records carry as their stage; choose another name")
        return self

    @property
    def budget(self) -> Budget:
        return Budget(steps=self.steps, seconds=self.seconds, eval_every=self.eval_every)


MOST_BASELINES = 1000  # runs of it at a stage


class EarlyStopping(Strict):
    """Runs of variants end where they are too far below their baseline to reach the threshold."""

    error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05  # how often one is stopped that would reach it
    min_runs: PositiveInt = 20  # pairs of whole runs to calibrate on; with fewer, nothing is stopped


class After(Strict):
    """The round that must have ended before this one starts."""

    round: Name
    when: When = "finished"


def _read_count(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 1 <= value <= MOST_BASELINES):
        return value
    raise ValueError(f"expected auto, or a number from 1 to {MOST_BASELINES}, not {value!r}")


class RoundSpec(Strict):
    """A round file, validated."""

    round: Name
    model: ModelConfig
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    prune: AnyRule = Threshold()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    baseline_seeds: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_BASELINES)], BeforeValidator(_read_count)
    ] = 1  # auto: the square-root rule
    control: Literal["aa"] | None = None  # an arm that is the baseline under another seed
    optimizer: OptimizerConfig = OptimizerConfig()
    tasks: Annotated[dict[Name, AnyTaskConfig], Field(min_length=1)]
    variants: Annotated[tuple[AnyVariant, ...], BeforeValidator(read_variants), Field(min_length=1)]
    parallel: bool = False
    early_stop: EarlyStopping | None = None
    after: After | None = None

    @property
    def named(self) -> tuple[Variant, ...]:
        """The variants that are known by now."""
        return tuple(variant for variant in self.variants if isinstance(variant, Variant))

    @property
    def selections(self) -> tuple[Selection, ...]:
        """What is to be taken over from rounds before this one."""
        return tuple(variant for variant in self.variants if isinstance(variant, Selection))

    @property
    def parent(self) -> After | None:
        """The round that this one waits for: `after`, or else the one its variants come from."""
        sources = [selection.source for selection in self.selections]
        return self.after or (After(round=sources[0]) if sources else None)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Validates a stored round, which an earlier version may have let pass."""
        return cls.model_validate_json(json.dumps(value), context={"is_stored": True})

    @model_validator(mode="after")
    def _is_consistent(self, info: ValidationInfo) -> Self:
        if found := conflicts(dict(self), **(info.context or {})):
            raise Inconsistent(found)
        return self

    @property
    def most_jobs(self) -> int:
        """Jobs there are when every variant that is known by now is promoted at every stage."""
        return self.search(frozenset(), {}).most_jobs

    @property
    def selecting(self) -> tuple[Stage, ...]:
        """The stages that select."""
        return tuple(stage for stage in self.stages if stage.confirm is None)

    def stage(self, name: str) -> Stage:
        """The stage of this name, which there is."""
        return next(stage for stage in self.stages if stage.name == name)

    def stage_it_continues(self, name: str) -> Stage | None:
        """The last stage whose runs go on in the one of this name; None where it trains from the start."""
        if self.optimizer.depends_on_length:
            return None
        before: Stage | None = None
        for stage in self.selecting:
            if stage.name == name:
                return before
            if stage.eval_every == self.stage(name).eval_every:
                before = stage
        return None  # it confirms

    def stage_it_follows(self, name: str) -> Stage | None:
        """The stage before, where the runs of the one of this name come through its weights, continued or not."""
        before = None
        for stage in self.selecting:
            if stage.name == name:
                return None if self.optimizer.depends_on_length else before
            before = stage
        return None  # it confirms

    def not_continued(self, names: Sequence[str]) -> list[str]:
        """Those of these stages whose runs none of the others goes on with."""
        continued = {stage.name for name in names if (stage := self.stage_it_continues(name)) is not None}
        return [name for name in names if name not in continued]

    @property
    def first_fresh_seed(self) -> int:
        """The first seed of the confirm stage, by the round's name: no other round's runs answer it."""
        return MOST_FRESH * (1 + int(sha256_of(self.round)[:8], 16) % 10**6)

    def search(self, no_ops: frozenset[str], same_as: Mapping[str, str]) -> SearchSpec:
        """What the planner needs to know, given the variants that are no-ops on this model, or another once more."""
        seeds = self.prune.seeds(self.seeds)
        named = tuple(variant.name for variant in self.named)
        tried = len(named) - len(no_ops) - len(same_as)
        runs = control_runs(tried) if self.baseline_seeds == "auto" else self.baseline_seeds
        baseline_seeds = _unused(0, max(0, runs - len(seeds)), seeds)
        last = self.stages[-1]
        return SearchSpec(
            tasks=tuple(self.tasks),
            variants=(*named, CONTROL_ARM) if self.control else named,
            stages=tuple(stage.name for stage in self.selecting),
            seeds=seeds,
            no_ops=no_ops,
            rule=self.prune,
            parallel=self.parallel,
            baseline_seeds=baseline_seeds,
            confirmation=None
            if last.confirm is None
            else Confirmation(
                last.name,
                _unused(self.first_fresh_seed, last.confirm.seeds, (*seeds, *baseline_seeds)),
                last.confirm.level,
            ),
            control=CONTROL_ARM if self.control else None,
            same_as=same_as,
        )

    def held_out(self) -> dict[str, TaskConfig]:
        """Each task with the validation set of the confirm stage: the examples that come after its own."""
        confirm = self.stages[-1].confirm
        if confirm is None:
            return {}
        return {
            name: task.model_copy(update={"val": confirm.val or task.val, "val_selected": task.val})
            for name, task in self.tasks.items()
        }

    def resolved(self, folder: Path) -> Self:
        """With every relative path taken as relative to `folder`."""
        tasks = {name: task.resolved(folder) for name, task in self.tasks.items()}
        checkpoint = self.model.checkpoint
        if isinstance(checkpoint, Path):
            checkpoint = folder / expanded(checkpoint)
        return self.model_copy(
            update={"tasks": tasks, "model": self.model.model_copy(update={"checkpoint": checkpoint})}
        )


def _unused(first: int, wanted: int, taken: tuple[int, ...]) -> tuple[int, ...]:
    """The least seeds from `first` on that are not taken."""
    return tuple(islice((seed for seed in count(first) if seed not in taken), wanted))
