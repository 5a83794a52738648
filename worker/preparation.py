"""Fetching and inspecting a round's inputs, checkpoint and data, before any accelerator time is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from model import checkpoint
from model.errors import ModelError
from model.tokenizers import get_tokenizer
from tasks import (
    BuildError,
    BuildReport,
    DataUnavailable,
    Example,
    TaskConfig,
    TaskError,
    build,
    revision_of,
)
from worker.downloads import checkpoint_file, revision_of_file
from worker.errors import Unreachable
from worker.job import (
    HeldOut,
    HubCheckpoint,
    ModelConfig,
    ModelFacts,
    RandomCheckpoint,
    RoundFacts,
    sha256_of,
)

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
    held_out: Mapping[str, TaskConfig] | None = None,
    announce: Announce = _nobody,
    warn: Announce = _nobody,
) -> RoundFacts:
    """Finds out all that planning needs to know; fetches what is remote, builds and caches the examples.

    held_out: tasks of the same names with the validation set of a confirm stage, if there is one. A network or hub
    that fails is asked again, with back-off. `announce` is told what is ready, `warn` what is tried again. Raises
    Unusable with every input that cannot be used.
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
    answer_tokens: dict[str, tuple[int, ...]] = {}
    confirming: dict[str, HeldOut] = {}
    for name, config in tasks.items():
        apart = held_out.get(name) if held_out else None
        if built := attempt(("tasks", name), partial(_build, config, apart, model.tokenizer, cache)):
            reports[name], answer_tokens[name] = built.report, built.answer_tokens
            announce(f"{name}: {reports[name].train.kept} train and {reports[name].val.kept} val examples")
            if built.commit is not None:
                revisions[name] = built.commit
            if built.held_out is not None:
                confirming[name] = built.held_out
                announce(f"{name}: {built.held_out.report.val.kept} val examples to confirm on")
    if problems or facts is None:
        raise Unusable(problems)
    return RoundFacts(
        model=facts, tasks=reports, revisions=revisions, answer_tokens=answer_tokens, held_out=confirming
    )


class _Built(NamedTuple):
    report: BuildReport
    answer_tokens: tuple[int, ...]  # of each validation example
    commit: str | None  # that hub data are fixed to from now on
    held_out: HeldOut | None


def _build(config: TaskConfig, apart: TaskConfig | None, tokenizer_name: str, cache: Path) -> _Built:
    """What is to be known of a task's examples; `apart`: the same task with the confirm stage's validation set."""
    commit = revision_of(config.data)
    tokenizer = get_tokenizer(tokenizer_name)
    train, val, report = build(config.at_revision(commit), tokenizer, cache_dir=cache)
    held_out = None
    if apart is not None:
        try:
            *_, unseen, of_unseen = build(apart.at_revision(commit), tokenizer, cache_dir=cache)
        except BuildError as error:
            raise BuildError(f"{NO_HELD_OUT}: {error}") from error
        _refuse_seen(unseen, [*train, *val])
        held_out = HeldOut(report=of_unseen, answer_tokens=_answer_tokens(unseen))
    return _Built(report, _answer_tokens(val), commit, held_out)


NO_HELD_OUT = (
    "the data do not give the confirm stage a validation set that played no part in selection (lower val here, or "
    "val of the stage's confirm, or give more data)"
)


def _answer_tokens(examples: Sequence[Example]) -> tuple[int, ...]:
    return tuple(len(example.answer) for example in examples)


def _refuse_seen(unseen: Sequence[Example], seen: Sequence[Example]) -> None:
    """Raises BuildError where an example to confirm on is one that selection has seen, by its id or its content."""
    ids = {example.id for example in seen}
    contents = {_content(example) for example in seen}
    twice = [example.id for example in unseen if example.id in ids or _content(example) in contents]
    if twice:
        raise BuildError(
            f"{NO_HELD_OUT}: {len(twice)} of {len(unseen)} were seen before, such as {twice[0]!r}"
        )


def _content(example: Example) -> tuple[bytes, bytes]:
    return example.prompt.tobytes(), example.answer.tobytes()


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
        shape = source.random.shape
        path, digest, revision = None, sha256_of(source.random.model_dump(mode="json")), None
    else:
        if isinstance(source, HubCheckpoint):
            path, digest = checkpoint_file(source)
            revision = revision_of_file(path)
        else:
            path, digest, revision = source, checkpoint.digest(source), None
        shape = checkpoint.inspect(path)
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
