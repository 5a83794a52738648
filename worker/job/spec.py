"""All that a worker needs to run a job, and what determines its result."""

from __future__ import annotations

from typing import Any

from model.settings import FutureSeedSettings
from worker.job.config import Budget, ModelConfig, OptimizerConfig
from worker.job.early_stop import EarlyStop
from worker.job.facts import ModelFacts
from worker.job.kinds import AnyTaskConfig
from worker.job.values import Strict, sha256_of

# Bump when training or evaluation changes numbers: results of older code are then not reused.
RESULT_VERSION = 11
BASELINE = "baseline"


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
        return sha256_of(self._whole())

    def protocol(self, result_version: int) -> str:
        """SHA-256 over what determines the result but the seed: runs of one protocol are runs of one experiment.

        result_version: of the fsq that ran it.
        """
        but_the_seed = {name: value for name, value in self._whole().items() if name != "seed"}
        return sha256_of(but_the_seed | {"result_version": result_version})

    @property
    def trajectory(self) -> str:
        """SHA-256 over what determines the sequence of weights and evaluations, however long it is."""
        return sha256_of(self._trajectory())

    def _whole(self) -> dict[str, Any]:
        return self._trajectory() | {"budget": self.budget.model_dump(mode="json")}

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
