"""What people and programs are shown of rounds, jobs and workers: the shapes of the REST API and of `--json`.

Names are those of the records (docs/records.md). Accuracies and deltas are fractions, times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from db.events import EventKind
from db.tables import JobState, RoundState

Item = TypeVar("Item")


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Page(View, Generic[Item]):
    """Some items of a longer list, and where it goes on."""

    items: tuple[Item, ...]
    next: str | None = Field(description="Pass it as `cursor` for the items that follow; null at the end.")


class Listed(View, Generic[Item]):
    """All items of a short list."""

    items: tuple[Item, ...]


class HealthView(View):
    status: str


class RoundLine(View):
    """A round in a list."""

    round: str
    state: RoundState
    reason: str | None = Field(description="Why it waits, is blocked, or decides nothing more.")
    after: str | None = Field(description="The round that it comes after.")
    jobs: dict[JobState, int]
    decisions: dict[str, int]
    created_at: datetime
    finished_at: datetime | None


class Funnel(View):
    """How many jobs and arms of a round got how far."""

    planned: int | None = Field(
        description="Jobs, if every variant were promoted at every stage; null while some variants are not known."
    )
    done: int = Field(description="Jobs that have ended, cached ones included.")
    cached: int = Field(description="Jobs answered from an equal one, without accelerator time.")
    pruned: int
    rejected: int
    promoted: int = Field(description="Arms promoted at the last stage.")
    confirmed: int


class NoiseFloor(View):
    """How often the control arm, the baseline under another seed, passed the first stage."""

    judged: int
    promoted: int


class RoundView(RoundLine):
    """A round as it was asked for, and how far it is."""

    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    no_ops: tuple[str, ...] = Field(description="Variants that compute the same as the baseline.")
    stages: tuple[str, ...]
    confirm_stage: str | None = Field(
        default=None, description="The stage that confirms, if there is one; the last."
    )
    seeds: tuple[int, ...] = Field(description="All that the search may use; the rule may need fewer.")
    rule: str
    min_delta: float = Field(description="The rule's threshold, a fraction: 0.001 is +0.10 pp.")
    metric: str
    funnel: Funnel
    noise_floor: NoiseFloor | None = Field(description="Null without a control arm.")
    n_events: int

    @property
    def last_selecting(self) -> str:
        """The stage whose promotions are the round's."""
        return self.stages[-1] if self.confirm_stage is None else self.stages[-2]


class JobView(View):
    """One training run."""

    id: int
    round: str
    task: str
    stage: str
    config: str
    seed: int
    state: JobState
    outcome: str | None
    reason: str | None
    attempts: int
    best_val_tok_acc: float | None
    step: int | None = Field(description="The last step at which it was evaluated.")
    fingerprint: str
    cached_from: int | None = Field(description="The job whose result this one has.")
    worker: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class DecisionView(View):
    """A verdict on a variant at a stage."""

    task: str
    stage: str
    config: str
    seed: int
    decision: str
    d_acc: float | None = Field(description="Over several seeds the mean; the seed is then their first.")
    d_acc_ci: tuple[float, float] | None = Field(description="95 % paired interval of d_acc, fractions.")
    p_value: float | None = Field(description="One-sided, that there is no gain.")
    seeds: tuple[int, ...] = Field(description="The seeds that the decision rests on.")
    d_loss: float | None
    reason: str
    caveats: tuple[str, ...] | None = Field(
        None,
        description="What makes the number doubtful (docs/evidence.md); null where the round cannot be read.",
    )
    decided_at: datetime


class EvaluationView(View):
    """One pass over the validation set."""

    step: int
    seconds: float
    tokens: int
    train_loss: float
    val_loss: float
    val_tok_acc: float
    val_seq_acc: float


class WorkerState(StrEnum):
    ALIVE = "alive"  # seen within the last minute
    PAUSED = "paused"  # alive, but takes no jobs for a while: too many failures of its machine in a row
    SILENT = "silent"  # not seen for longer, and it has not said that it stops
    STOPPED = "stopped"


class WorkerView(View):
    """A process that runs jobs on one device."""

    id: int
    host: str
    pid: int
    device: str
    state: WorkerState
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    reason: str | None = Field(description="Why it is paused.")
    job: JobView | None = Field(description="What it is running.")


class StatusView(View):
    """The whole service in a few numbers."""

    version: str
    rounds: dict[RoundState, int]
    jobs: dict[JobState, int]
    workers: dict[WorkerState, int]


class EventView(View):
    """Something that happened in a round; `data` depends on `kind`."""

    number: int = Field(description="Rises by one from event to event of a round.")
    at: datetime
    kind: EventKind
    job: int | None
    data: dict[str, Any]


class SubmissionView(View):
    """A round that was submitted."""

    round: str
    state: RoundState
    is_new: bool


class ChangeView(View):
    """A round that was to be cancelled or tried again."""

    round: str
    state: RoundState
    changed: bool = Field(description="False: there was nothing to cancel, or nothing to try again.")
