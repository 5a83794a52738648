"""The vocabulary that orchestrator and worker share: what a job is, what determines its result, how it ended.

No torch here: everything that plans, shows or serves imports this module.
"""

from __future__ import annotations

from model.settings import FutureSeedSettings
from tasks import BuildReport, TaskConfig
from tasks.errors import in_words, shown
from tasks.plug_ins import BrokenPlugIn, PlugIns
from tasks.report import Lengths, SplitReport
from worker.job.config import (
    Budget,
    HubCheckpoint,
    HubFile,
    ModelConfig,
    OptimizerConfig,
    RandomCheckpoint,
    RandomInit,
)
from worker.job.early_stop import Bound, EarlyStop, Stop
from worker.job.facts import HeldOut, ModelFacts, RoundFacts
from worker.job.kinds import AnyTaskConfig, task_kinds, task_options
from worker.job.measures import (
    Evaluation,
    Metric,
    Metrics,
    accuracy_of,
    is_of_last_evaluation,
    is_of_whole_answers,
    so_far,
)
from worker.job.places import LOG_FILE, RUNS, run_dir, run_name
from worker.job.results import (
    CONCLUSIVE,
    LONGEST_REASON,
    REUSABLE,
    WITHOUT_A_NUMBER,
    JobResult,
    Outcome,
    Usage,
    version,
)
from worker.job.spec import BASELINE, RESULT_VERSION, JobSpec
from worker.job.values import Strict, sha256_of

__all__ = [
    "BASELINE",
    "CONCLUSIVE",
    "LOG_FILE",
    "LONGEST_REASON",
    "RESULT_VERSION",
    "REUSABLE",
    "RUNS",
    "WITHOUT_A_NUMBER",
    "AnyTaskConfig",
    "Bound",
    "BrokenPlugIn",
    "Budget",
    "BuildReport",
    "EarlyStop",
    "Evaluation",
    "FutureSeedSettings",
    "HeldOut",
    "HubCheckpoint",
    "HubFile",
    "JobResult",
    "JobSpec",
    "Lengths",
    "Metric",
    "Metrics",
    "ModelConfig",
    "ModelFacts",
    "OptimizerConfig",
    "Outcome",
    "PlugIns",
    "RandomCheckpoint",
    "RandomInit",
    "RoundFacts",
    "SplitReport",
    "Stop",
    "Strict",
    "TaskConfig",
    "Usage",
    "accuracy_of",
    "in_words",
    "is_of_last_evaluation",
    "is_of_whole_answers",
    "run_dir",
    "run_name",
    "sha256_of",
    "shown",
    "so_far",
    "task_kinds",
    "task_options",
    "version",
]
