"""What the inputs of a round turned out to be."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tasks import BuildReport
from worker.job.values import Strict


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
    revisions: dict[str, str] = Field(default_factory=dict)  # task -> commit of its hub data
    # task -> answer tokens of each validation example; not known of rounds of earlier versions
    answer_tokens: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    held_out: dict[str, HeldOut] = Field(default_factory=dict)  # task -> what a confirm stage is measured on
    # variant taken over from other rounds -> the tasks and seeds here on whose like they chose it among several
    selected_on: dict[str, tuple[tuple[str, int], ...]] = Field(default_factory=dict)
