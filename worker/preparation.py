"""Fetching and inspecting a round's inputs, checkpoint and data, before any accelerator time is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from model import checkpoint
from model.errors import ModelError
from model.shapes import ModelShape
from model.tokenizers import get_tokenizer
from tasks import BuildReport, DataUnavailable, TaskConfig, TaskError, build, revision_of
from worker.downloads import checkpoint_file, revision_of_file
from worker.errors import Unreachable
from worker.job import HubCheckpoint, ModelConfig, ModelFacts, RandomCheckpoint, RoundFacts, sha256_of

ATTEMPTS = 4
BACK_OFF = wait_exponential(multiplier=1, max=30)  # 1, 2, 4 seconds

T = TypeVar("T")
Announce = Callable[[str], None]


class InputProblem(Exception):
    """An input cannot be used; `place` is its location in the round."""

    def __init__(self, place: tuple[str, ...], message: str, *, is_infrastructure: bool) -> None:
        self.place = place
        self.is_infrastructure = is_infrastructure
        super().__init__(message)


class Unusable(Exception):
    """Some of a round's inputs cannot be used; carries every problem found."""

    def __init__(self, problems: list[InputProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


def _nobody(_: str) -> None:
    """Whoever does not want to be told."""


def prepare(
    model: ModelConfig,
    tasks: Mapping[str, TaskConfig],
    cache: Path,
    *,
    announce: Announce = _nobody,
    warn: Announce = _nobody,
) -> RoundFacts:
    """Finds out all that planning needs to know; fetches what is remote, builds and caches the examples.

    A network or hub that fails is asked again, with back-off. `announce` is told what is ready, `warn` what is
    tried again. Raises Unusable with every input that cannot be used.
    """
    problems: list[InputProblem] = []

    def attempt(place: tuple[str, ...], function: Callable[[], T]) -> T | None:
        try:
            return _patiently(function, warn)
        except (ModelError, OSError, TaskError, Unreachable) as error:
            is_infrastructure = isinstance(error, (DataUnavailable, OSError, Unreachable))
            problems.append(InputProblem(place, str(error), is_infrastructure=is_infrastructure))
            return None

    facts = attempt(("model", "checkpoint"), partial(inspect_model, model))
    if facts is not None:
        announce(f"model: {facts.n_layer} layers x {facts.n_embd}, {facts.n_params:,} parameters")
    reports: dict[str, BuildReport] = {}
    revisions: dict[str, str] = {}
    for name, config in tasks.items():
        if built := attempt(("tasks", name), partial(_build, config, model.tokenizer, cache)):
            reports[name], commit = built
            announce(f"{name}: {reports[name].train.kept} train and {reports[name].val.kept} val examples")
            if commit is not None:
                revisions[name] = commit
    if problems or facts is None:
        raise Unusable(problems)
    return RoundFacts(model=facts, tasks=reports, revisions=revisions)


def _build(config: TaskConfig, tokenizer: str, cache: Path) -> tuple[BuildReport, str | None]:
    """The report on a task's examples, and the commit that hub data are fixed to from now on."""
    commit = revision_of(config.data)
    *_, report = build(config.at_revision(commit), get_tokenizer(tokenizer), cache_dir=cache)
    return report, commit


def _patiently(function: Callable[[], T], warn: Announce) -> T:
    def say(state: RetryCallState) -> None:
        assert state.outcome is not None  # noqa: S101  (it failed)
        assert state.next_action is not None  # noqa: S101
        warn(f"{state.outcome.exception()}; trying again in {state.next_action.sleep:.0f} s")

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=BACK_OFF,
        retry=retry_if_exception_type(DataUnavailable),  # a checkpoint's download tries again by itself
        before_sleep=say,
        reraise=True,
    )
    return retrying(function)


def inspect_model(config: ModelConfig) -> ModelFacts:
    """What the model is, from its file's header or its settings; raises ModelError, Unreachable."""
    source = config.checkpoint
    if isinstance(source, RandomCheckpoint):
        chosen = source.random
        shape = ModelShape.random(chosen.layers, chosen.dim, chosen.vocab, chosen.head_size)
        path, digest, revision = None, sha256_of(chosen.model_dump(mode="json")), None
    else:
        path = checkpoint_file(source) if isinstance(source, HubCheckpoint) else source
        revision = revision_of_file(path) if isinstance(source, HubCheckpoint) else None
        shape, digest = checkpoint.inspect(path), checkpoint.digest(path)
    needed = get_tokenizer(config.tokenizer).vocab_size
    if shape.vocab_size < needed:
        raise ModelError(
            f"the model knows {shape.vocab_size} tokens, the tokenizer {config.tokenizer!r} has {needed}; "
            "choose the tokenizer the model was trained with"
        )
    return ModelFacts(
        path=path,
        revision=revision,
        digest=digest,
        n_layer=shape.n_layer,
        n_embd=shape.n_embd,
        n_head=shape.n_head,
        vocab_size=shape.vocab_size,
        n_params=shape.n_params,
    )
