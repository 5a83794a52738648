"""A round together with what its inputs turned out to be: it can name every job that it may need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.rounds.spec import RoundSpec
from orchestrator.search import JobKey, SearchSpec
from worker.job import (
    BASELINE,
    BuildReport,
    FutureSeedSettings,
    JobSpec,
    RoundFacts,
    TaskConfig,
    sha256_of,
)

CONTROL_SEEDS = 2**30  # the control arm's seeds lie so far above those it is compared with


@dataclass(frozen=True)
class ResolvedRound:
    """A round together with what its inputs turned out to be."""

    spec: RoundSpec
    facts: RoundFacts

    @cached_property
    def canonical(self) -> dict[str, FutureSeedSettings | None]:
        """Each variant's normal form on this model; None is a no-op."""
        n_layer = self.facts.model.n_layer
        return {variant.name: variant.settings.canonical(n_layer) for variant in self.spec.named}

    @cached_property
    def search(self) -> SearchSpec:
        """What the planner needs to know."""
        no_ops = frozenset(name for name, settings in self.canonical.items() if settings is None)
        return self.spec.search(no_ops, self.same_as)

    @cached_property
    def same_as(self) -> dict[str, str]:
        """Variants that compute the same as an earlier one: run once, answered from its result."""
        first: dict[FutureSeedSettings, str] = {}
        trained = {name: settings for name, settings in self.canonical.items() if settings is not None}
        earliest = {name: first.setdefault(settings, name) for name, settings in trained.items()}
        return {name: other for name, other in earliest.items() if other != name}

    @cached_property
    def _held_out(self) -> dict[str, TaskConfig]:
        return self.spec.held_out()

    def confirms(self, stage: str) -> bool:
        """Whether a stage is the one that confirms."""
        return self.search.confirmation is not None and stage == self.search.confirmation.stage

    def report(self, task: str, stage: str) -> BuildReport:
        """What was built of a task for a stage."""
        return self.facts.held_out[task].report if self.confirms(stage) else self.facts.tasks[task]

    def answer_tokens(self, task: str, stage: str) -> tuple[int, ...] | None:
        """Answer tokens of each validation example of a stage; None where they are not known."""
        if self.confirms(stage):
            return self.facts.held_out[task].answer_tokens
        return self.facts.answer_tokens.get(task)

    @property
    def digest(self) -> str:
        """Equal for equal rounds on equal inputs, wherever the files lie."""
        jobs = [self.job(key).fingerprint for key in self.largest_plan()]
        asked = self.spec.model_dump(mode="json", include={"round", "prune", "parallel", "after"})
        names: list[Any] = [self.search.stages, self.search.variants, sorted(self.search.no_ops)]
        names += [selection.model_dump(mode="json") for selection in self.spec.selections]
        if (confirm := self.spec.stages[-1].confirm) is not None:
            names.append(confirm.model_dump(mode="json"))
        if self.spec.early_stop is not None:
            names.append(self.spec.early_stop.model_dump(mode="json"))
        return sha256_of([asked, names, [str(key) for key in self.largest_plan()], jobs])

    def largest_plan(self) -> Iterator[JobKey]:
        """Every job there is when every variant is promoted at every stage."""
        return self.search.largest_plan()

    def job(self, key: JobKey) -> JobSpec:
        """All that a worker needs to run a job."""
        stage = self.spec.stage(key.stage)
        is_control = key.variant == self.search.control
        tasks = self._held_out if stage.confirm else self.spec.tasks
        return JobSpec(
            model=self.spec.model,
            model_facts=self.facts.model,
            task=tasks[key.task].at_revision(self.facts.revisions.get(key.task)),
            examples_digest=self.report(key.task, key.stage).digest,
            optimizer=self.spec.optimizer,
            budget=stage.budget,
            seed=(key.seed + CONTROL_SEEDS) % 2**31 if is_control else key.seed,
            future_seed=None if is_control or key.variant == BASELINE else self.canonical[key.variant],
            continues=not self.confirms(key.stage)
            and key.stage not in self.spec.not_continued(self.search.stages),
            follows=stage.confirm is None and stage is not self.spec.stages[0],
        )
