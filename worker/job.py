"""The vocabulary that orchestrator and worker share: what a job is, what determines its result, how it ended.

No torch here: everything that plans, shows or serves imports this module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import cache
from importlib import metadata
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from model.settings import FutureSeedSettings as FutureSeedSettings
from model.shapes import ModelShape
from tasks import BrokenTaskKind, UnknownTaskKind, get_kind, kinds, parse_config
from tasks import BuildReport as BuildReport
from tasks import TaskConfig as TaskConfig
from tasks.errors import blaming_kind
from tasks.errors import in_words as in_words
from tasks.errors import shown as shown
from tasks.plug_ins import BrokenPlugIn as BrokenPlugIn
from tasks.plug_ins import PlugIns as PlugIns
from tasks.report import Lengths as Lengths
from tasks.report import SplitReport as SplitReport

# Bump when training or evaluation changes numbers: results of older code are then not reused.
RESULT_VERSION = 11

version = cache(metadata.version)  # found anew, it takes longer than a statement of a job's end
BASELINE = "baseline"
LONGEST_REASON = 2000  # characters


class Strict(BaseModel):
    """Immutable, no unknown keys, no silent conversions, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Validates what `model_dump(mode="json")` gave."""
        return cls.model_validate_json(json.dumps(value))


class Outcome(StrEnum):
    """How a job ended."""

    OK = "ok"  # metrics complete
    CACHED = "cached"  # an equal fingerprint was known; no accelerator time spent
    BUILD_FAILED = "build_failed"  # the examples could not be built, or are not those of the submission
    OOM = "oom"  # does not fit even at micro-batch 1; no verdict on the variant
    DIVERGED = "diverged"  # NaN or infinite loss; a verdict
    # so far below the baseline that it ended before its budget; a verdict without a number
    STOPPED = "stopped"
    INFRA_FAILED = "infra_failed"  # network, disk, hub; retried
    CRASHED = "crashed"  # the child died; retried
    LOST = "lost"  # the lease expired; retried
    TIMEOUT = "timeout"  # the child hung, or outlived its budget by far; retried
    CANCELLED = "cancelled"  # by the user

    @property
    def is_retried(self) -> bool:
        """Whether a further attempt may end differently."""
        return self in {Outcome.INFRA_FAILED, Outcome.CRASHED, Outcome.LOST, Outcome.TIMEOUT}


MEASURED = (Outcome.OK, Outcome.DIVERGED)  # what an equal fingerprint need not produce again
CONCLUSIVE = (*MEASURED, Outcome.STOPPED)  # what a decision follows from: nothing failed


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


def task_options(kind: str) -> type[TaskConfig]:
    """The options that a task of this kind takes; raises UnknownTaskKind."""
    return get_kind(kind).Config


def task_kinds() -> dict[str, dict[str, Any]]:
    """Every task kind: its summary, and its options: whether required, their default as JSON, their meaning."""
    found = {}
    for name, task in kinds().items():
        with suppress(BrokenTaskKind), blaming_kind(name, "to make the defaults of its options"):
            found[name] = {"summary": task.summary, "options": _options(task.Config)}
    return found


def _options(config: type[TaskConfig]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "required": field.is_required(),
            "default": to_jsonable_python(_default(field), exclude_none=True, fallback=str),
            "meaning": field.description or "",
        }
        for name, field in config.model_fields.items()
        if name != "kind"
    }


def _default(field: FieldInfo) -> Any:
    """None where there is none, or it follows from other options."""
    is_open = field.is_required() or field.default_factory_takes_validated_data
    return None if is_open else field.get_default(call_default_factory=True)


def _task_config(value: Any) -> Any:
    try:
        return parse_config(value) if isinstance(value, Mapping) else value
    except (UnknownTaskKind, BrokenTaskKind) as error:
        raise ValueError(str(error)) from None


AnyTaskConfig = Annotated[SerializeAsAny[TaskConfig], BeforeValidator(_task_config)]


class ModelFacts(Strict):
    """What the checkpoint turned out to be."""

    path: Path | None  # None: random initialisation
    revision: str | None = None  # commit of a file on the hub
    digest: str  # SHA-256 of the file, or of the random initialisation's settings
    n_layer: int
    n_embd: int
    n_head: int
    vocab_size: int
    n_params: int


class HeldOut(Strict):
    """Examples of a task with a validation set that played no part in selection."""

    report: BuildReport
    answer_tokens: tuple[int, ...]


class RoundFacts(Strict):
    """What inspection of a round's inputs found, before any accelerator time is spent."""

    model: ModelFacts
    tasks: dict[str, BuildReport]
    revisions: dict[str, str] = {}  # task -> commit of its hub data
    # task -> answer tokens of each validation example; not known of rounds of earlier versions
    answer_tokens: dict[str, tuple[int, ...]] = {}
    held_out: dict[str, HeldOut] = {}  # task -> what a confirm stage is measured on
    # variant taken over from other rounds -> the tasks and seeds here on whose like they chose it among several
    selected_on: dict[str, tuple[tuple[str, int], ...]] = {}


Metric = Literal["best_val_tok_acc", "final_val_tok_acc", "best_val_seq_acc"]


def accuracy_of(metric: Metric) -> Literal["val_tok_acc", "val_seq_acc"]:
    """The accuracy of each evaluation that a metric goes by."""
    return "val_seq_acc" if is_of_whole_answers(metric) else "val_tok_acc"


def is_of_whole_answers(metric: Metric) -> bool:
    """Whether a metric counts answers with every token right, not tokens."""
    return metric == "best_val_seq_acc"


def is_of_last_evaluation(metric: Metric) -> bool:
    """Whether a metric goes by a run's last evaluation, not by its best."""
    return metric == "final_val_tok_acc"


class Bound(Strict):
    """The least that a run must have by a step, beside what its baseline had; fractions."""

    step: int
    least: float
    baseline: float


class Stop(NamedTuple):
    """Where a run ends before its budget does, and why."""

    step: int
    reason: str


class EarlyStop(Strict):
    """Where a run need not go on: below these bounds it would not have reached `min_delta`, but for `error_rate`."""

    metric: Metric
    min_delta: float
    error_rate: float  # how often a run is stopped that would have reached it, at most
    pairs: int  # of whole runs, that the bounds were calibrated on
    bounds: tuple[Bound, ...]

    def stop(self, evaluations: Sequence[Evaluation]) -> Stop | None:
        """The first of a run's evaluations, all from its start on, that is below its bound."""
        accuracies = [getattr(evaluation, accuracy_of(self.metric)) for evaluation in evaluations]
        scores = so_far(self.metric, accuracies)
        bounds = {bound.step: bound for bound in self.bounds}
        for evaluation, score in zip(evaluations, scores, strict=True):
            bound = bounds.get(evaluation.step)
            if bound is not None and score < bound.least:
                return Stop(evaluation.step, self._reason(bound, score))
        return None

    def _reason(self, bound: Bound, score: float) -> str:
        delta, least = score - bound.baseline, bound.least - bound.baseline
        return (
            f"at step {bound.step}, {100 * delta:+.2f} pp from the baseline there; who has less than "
            f"{100 * least:+.2f} pp does not end at {100 * self.min_delta:+.2f} pp "
            f"(error rate {self.error_rate:g}, from {self.pairs} pairs of whole runs)"
        )


def so_far(metric: Metric, accuracies: Sequence[float]) -> list[float]:
    """What a run would score if it ended at each evaluation: the best yet, or the last."""
    return list(accuracies) if is_of_last_evaluation(metric) else list(accumulate(accuracies, max))


class JobSpec(Strict):
    """Everything that determines a job's result, and where to find it."""

    model: ModelConfig
    model_facts: ModelFacts
    task: AnyTaskConfig
    examples_digest: str
    optimizer: OptimizerConfig
    budget: Budget
    seed: int
    future_seed: FutureSeedSettings | None  # canonical; None: baseline
    continues: bool = False  # a later stage may go on from where this job ends: keep a snapshot
    follows: bool = False  # an earlier stage of this arm has passed, and so it fits into memory
    early_stop: EarlyStop | None = None  # not in the fingerprint: a run that it ends is no result of this job

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what determines the result: equal fingerprint, equal result."""
        return sha256_of(self._trajectory() | {"budget": self.budget.model_dump(mode="json")})

    def protocol(self, result_version: int) -> str:
        """SHA-256 over what determines the result but the seed: runs of one protocol are runs of one experiment.

        result_version: of the fsq that ran it.
        """
        material = self._trajectory() | {"budget": self.budget.model_dump(mode="json")}
        del material["seed"]
        return sha256_of(material | {"result_version": result_version})

    @property
    def trajectory(self) -> str:
        """SHA-256 over what determines the sequence of weights and evaluations, however long it is."""
        return sha256_of(self._trajectory())

    def _trajectory(self) -> dict[str, Any]:
        material: dict[str, Any] = {
            "result_version": RESULT_VERSION,
            "model": self.model_facts.digest,
            "tokenizer": self.model.tokenizer,
            "dtype": self.model.dtype,
            "examples": self.examples_digest,
            "batch_size": self.task.batch_size,
            "optimizer": self.optimizer.model_dump(mode="json"),
            "seed": self.seed,
            "eval_every": self.budget.eval_every,
            "future_seed": self.future_seed and self.future_seed.model_dump(mode="json"),
        }
        if self.optimizer.depends_on_length:
            material["length"] = self.budget.model_dump(mode="json")
        return material


RUNS = "runs"  # the folder of the runs, in the home folder


def run_name(round_name: str, task: str, stage: str, variant: str, seed: int) -> str:
    """What a job is called among those of all rounds."""
    return f"{round_name}/{task}/{stage}/{variant}/seed{seed}"


def run_dir(round_name: str, task: str, stage: str, variant: str, seed: int) -> str:
    """Where a job leaves its log, relative to the home folder."""
    return f"{RUNS}/{run_name(round_name, task, stage, variant, seed)}"


LOG_FILE = "log.txt"


class Evaluation(Strict):
    """One pass over the whole validation set."""

    step: int
    seconds: float  # of training and evaluation since the start of the run, earlier stages included
    tokens: int  # prompt and answer tokens trained on so far
    train_loss: float  # nats per answer token, mean since the last evaluation
    val_loss: float  # nats per answer token
    val_tok_acc: float  # share of answer tokens predicted, teacher-forced
    val_seq_acc: float  # share of answers with every token right
    distinct_predictions: int  # different tokens among all predictions; 1: a constant answer
    correct: tuple[int, ...]  # correct answer tokens of each validation example, in their order


class Metrics(Strict):
    """A run in a few numbers; the best of each kind may come from different evaluations."""

    best_val_tok_acc: float
    best_val_loss: float
    best_val_seq_acc: float
    final_val_tok_acc: float
    best_step: int  # of best_val_tok_acc, the earliest of equals
    steps: int
    tokens: int
    seconds: float
    distinct_predictions: int  # at best_step
    final_distinct_predictions: int | None = None  # None where an earlier version stored them
    best_seq_distinct_predictions: int | None = None
    best_seq_step: int | None = None  # of best_val_seq_acc, the earliest of equals

    def step_of(self, metric: Metric) -> int | None:
        """The step of the evaluation that a metric goes by; None where an earlier version did not store it."""
        if is_of_last_evaluation(metric):
            return self.steps
        return self.best_seq_step if is_of_whole_answers(metric) else self.best_step

    def distinct_at(self, metric: Metric) -> int:
        """Different tokens predicted by the evaluation that a metric goes by."""
        found: int | None = self.distinct_predictions
        if is_of_last_evaluation(metric):
            found = self.final_distinct_predictions
        elif is_of_whole_answers(metric):
            found = self.best_seq_distinct_predictions
        return self.distinct_predictions if found is None else found

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> Self:
        """Summarises a run from its evaluations, at least one."""
        best = max(evaluations, key=lambda evaluation: (evaluation.val_tok_acc, -evaluation.step))
        best_by_sequence = max(evaluations, key=lambda evaluation: (evaluation.val_seq_acc, -evaluation.step))
        last = evaluations[-1]
        return cls(
            best_val_tok_acc=best.val_tok_acc,
            best_val_loss=min(evaluation.val_loss for evaluation in evaluations),
            best_val_seq_acc=best_by_sequence.val_seq_acc,
            final_val_tok_acc=last.val_tok_acc,
            best_step=best.step,
            steps=last.step,
            tokens=last.tokens,
            seconds=last.seconds,
            distinct_predictions=best.distinct_predictions,
            final_distinct_predictions=last.distinct_predictions,
            best_seq_distinct_predictions=best_by_sequence.distinct_predictions,
            best_seq_step=best_by_sequence.step,
        )


class Usage(Strict):
    """What a run took."""

    device: str
    kernel: str
    micro_batch: int
    padding_share: float  # of all positions computed in training
    peak_memory_bytes: int | None  # of the accelerator; None on CPU, where nothing counts it per job
    continued_from: int = 0  # steps taken over from the snapshot of an earlier stage


def _as_stored(reason: Any) -> Any:
    """What an error says, as every database takes it and a line shows it."""
    if not isinstance(reason, str):
        return reason
    text = " ".join(reason.replace("\0", " ").split())[:LONGEST_REASON]
    return text.encode(errors="replace").decode()


class JobResult(Strict):
    """How a job ended and what it measured; the evaluations themselves are reported while it runs."""

    outcome: Outcome
    reason: Annotated[str | None, BeforeValidator(_as_stored)] = None
    metrics: Metrics | None = None  # of a whole run
    usage: Usage | None = None
    partial: Metrics | None = None  # of a run that was stopped, up to there
    version: str | None = None  # of fsq, where it is stored
    result_version: int | None = None

    @model_validator(mode="after")
    def _is_whole_or_partial(self) -> Self:
        if (self.partial is not None) != (self.outcome is Outcome.STOPPED) or (self.metrics and self.partial):
            raise ValueError("a stopped run, and no other, has partial metrics, and only these")
        return self


def sha256_of(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
