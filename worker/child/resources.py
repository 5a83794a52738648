"""What stays loaded between jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from socket import gethostname

import torch

from model import RWKV7, default_backend, get_tokenizer, random_state_dict
from model.checkpoint import digest, read
from model.errors import ModelError
from tasks import DataUnavailable, Example, TaskConfig, TaskError, build
from worker.child.fitting import Fitting, Shapes
from worker.downloads import checkpoint_file
from worker.errors import BuildFailed, InfrastructureFailed, Unreachable
from worker.job import HubCheckpoint, JobSpec, RandomCheckpoint
from worker.process_memory import give_back

REMEDY = f"; `fsq retry` once {gethostname()} has what was there then, or submit it under a new name"
ONE_THREAD_BELOW = 256  # model width under which a second thread costs more than it brings


class Resources:
    """What stays loaded between jobs: one set of base weights, and the examples used last."""

    def __init__(self, device: torch.device, cache: Path, activation_bytes: int) -> None:
        self.device = device
        self.activation_bytes = activation_bytes
        self._threads = torch.get_num_threads()
        self._cache = cache
        self._digest = ""
        self._weights: dict[str, torch.Tensor] = {}
        self._model: RWKV7 | None = None
        self._examples: dict[str, tuple[Sequence[Example], Sequence[Example]]] = {}
        self.fitting: dict[Shapes, Fitting] = {}  # what fitted into memory

    def model(self, spec: JobSpec) -> RWKV7:
        """The model with its weights as in the checkpoint."""
        if self._model is None or self._digest != spec.model_facts.digest:
            self._weights, self._model, self._digest = {}, None, ""  # not both in memory
            self._weights = _weights(spec)
            self._model = RWKV7.from_state_dict(self._weights, device=self.device)
            self._digest = spec.model_facts.digest
            # the kernel is tested, in a thread, while there is memory
            default_backend(self.device, head_size=self._model.shape.head_size)
        self._model.load_state_dict(self._weights)
        self._model.zero_grad(set_to_none=True)
        return self._model

    def use_threads_for(self, spec: JobSpec) -> None:
        """Lets torch, in the whole process, have as many threads as a model of this size gains from."""
        torch.set_num_threads(1 if spec.model_facts.n_embd < ONE_THREAD_BELOW else self._threads)

    def rest(self) -> None:
        """Holds no more memory than weights and examples take, until the next job."""
        if self._model is not None:
            self._model.zero_grad(set_to_none=True)
        give_back()
        torch.cuda.empty_cache()

    def examples(self, spec: JobSpec) -> tuple[Sequence[Example], Sequence[Example]]:
        """Training and validation examples; raises BuildFailed when they are not those of the submission."""
        if spec.examples_digest not in self._examples:
            try:
                tokenizer = get_tokenizer(spec.model.tokenizer)
                train_set, val_set, report = build(spec.task, tokenizer, cache_dir=self._cache)
            except DataUnavailable as error:
                raise InfrastructureFailed(str(error)) from error
            except TaskError as error:
                raise BuildFailed(str(error)) from error
            if report.digest != spec.examples_digest:
                raise BuildFailed(
                    f"the data ({_places(spec.task)}), or the code of task kind {spec.task.kind!r}, "
                    f"changed since the round was submitted{REMEDY}"
                )
            self._examples = {spec.examples_digest: (train_set, val_set)}
        return self._examples[spec.examples_digest]


def _weights(spec: JobSpec) -> dict[str, torch.Tensor]:
    source = spec.model.checkpoint
    if isinstance(source, RandomCheckpoint):
        return random_state_dict(source.random.shape, source.random.seed)
    path, wanted = spec.model_facts.path, spec.model_facts.digest
    assert path is not None  # noqa: S101  (only random models have no file)
    try:
        if not isinstance(source, HubCheckpoint):
            found = digest(path)
        elif not path.exists() or (found := digest(path)) != wanted:
            path, found = _fetched(source, spec.model_facts.revision)
        if found != wanted:
            raise BuildFailed(f"the checkpoint changed since the round was submitted{REMEDY}")
        # copies: what is read may be the file itself, mapped into memory, and change with it
        return {name: tensor.clone() for name, tensor in read(path).items()}
    except (ModelError, OSError, Unreachable) as error:
        raise InfrastructureFailed(str(error)) from error


def _fetched(source: HubCheckpoint, revision: str | None) -> tuple[Path, str]:
    try:
        return checkpoint_file(source, revision)
    except ModelError as error:  # the hub no longer has it
        raise BuildFailed(str(error)) from error


def _places(task: TaskConfig) -> str:
    """Where a task's rows come from."""
    data = task.data
    if data is None:
        return "generated"
    if data.hub is not None:
        return data.hub.repo
    return ", ".join(map(str, data.files.values()))
