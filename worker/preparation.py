"""Inspecting a round's inputs, the checkpoint and every task's data, before any accelerator time is spent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model import checkpoint
from model.errors import ModelError
from model.shapes import ModelShape
from model.tokenizers import get_tokenizer
from tasks import BuildReport, TaskConfig, TaskError, build
from worker.job import HubCheckpoint, ModelConfig, ModelFacts, RandomCheckpoint, RoundFacts, sha256_of


class InputProblem(Exception):
    """An input cannot be used; `place` is its location in the round."""

    def __init__(self, place: tuple[str, ...], message: str) -> None:
        self.place = place
        super().__init__(message)


class Unusable(Exception):
    """Some of a round's inputs cannot be used; carries every problem found."""

    def __init__(self, problems: list[InputProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


def prepare(model: ModelConfig, tasks: Mapping[str, TaskConfig], cache: Path) -> RoundFacts:
    """Finds out all that planning needs to know; builds and caches the examples.

    Raises Unusable with every input that cannot be used.
    """
    problems: list[InputProblem] = []
    facts: ModelFacts | None = None
    try:
        facts = inspect_model(model)
    except (ModelError, OSError) as error:
        problems.append(InputProblem(("model", "checkpoint"), str(error)))
    reports: dict[str, BuildReport] = {}
    for name, config in tasks.items():
        try:
            *_, reports[name] = build(config, get_tokenizer(model.tokenizer), cache_dir=cache)
        except TaskError as error:
            problems.append(InputProblem(("tasks", name), str(error)))
    if problems or facts is None:
        raise Unusable(problems)
    return RoundFacts(model=facts, tasks=reports)


def inspect_model(config: ModelConfig) -> ModelFacts:
    """What the model is, from its file's header or its settings; raises ModelError."""
    source = config.checkpoint
    if isinstance(source, RandomCheckpoint):
        chosen = source.random
        shape = ModelShape.random(chosen.layers, chosen.dim, chosen.vocab, chosen.head_size)
        path, digest = None, sha256_of(chosen.model_dump(mode="json"))
    else:
        path = download(source) if isinstance(source, HubCheckpoint) else source
        shape, digest = checkpoint.inspect(path), checkpoint.digest(path)
    needed = get_tokenizer(config.tokenizer).vocab_size
    if shape.vocab_size < needed:
        raise ModelError(
            f"the model knows {shape.vocab_size} tokens, the tokenizer {config.tokenizer!r} has {needed}; "
            "choose the tokenizer the model was trained with"
        )
    return ModelFacts(
        path=path,
        digest=digest,
        n_layer=shape.n_layer,
        n_embd=shape.n_embd,
        n_head=shape.n_head,
        vocab_size=shape.vocab_size,
        n_params=shape.n_params,
    )


def download(source: HubCheckpoint) -> Path:
    """The local copy of a file on the hub, fetched when it is not there yet; raises ModelError."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise ModelError("checkpoints on the hub need the extra `hub`: pip install 'fsq[hub]'") from None
    wanted = source.hub
    try:
        return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(f"{wanted.file} of {wanted.repo} cannot be fetched from the hub: {error}") from error
