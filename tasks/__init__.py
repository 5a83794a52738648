"""Tasks: turns data sets into examples, a prompt and an answer as token ids.

Here live the task kinds (one module each), the readers, the common builder with its limits, notes and
report, and the cache of built examples. No model, no training, no torch, no database: those come later
and know this package, not the other way round. Third-party kinds come in by entry points `fsq.tasks`.
"""

from tasks.builder import build
from tasks.candidate import Candidate, Cut, NotesSlot, Part
from tasks.config import Data, HubData, NotedConfig, Notes, TaskConfig
from tasks.errors import (
    BrokenTaskKind,
    BuildError,
    DataError,
    DataUnavailable,
    RowError,
    TaskError,
    UnknownTaskKind,
)
from tasks.example import Example
from tasks.registry import get_kind, kinds, parse_config
from tasks.report import BuildReport
from tasks.rows import Columns, Row
from tasks.sources import revision_of
from tasks.splits import Split
from tasks.task import Task
from tasks.tokens import Tokenizer

__all__ = [
    "BrokenTaskKind",
    "BuildError",
    "BuildReport",
    "Candidate",
    "Columns",
    "Cut",
    "Data",
    "DataError",
    "DataUnavailable",
    "Example",
    "HubData",
    "NotedConfig",
    "Notes",
    "NotesSlot",
    "Part",
    "Row",
    "RowError",
    "Split",
    "Task",
    "TaskConfig",
    "TaskError",
    "Tokenizer",
    "UnknownTaskKind",
    "build",
    "get_kind",
    "kinds",
    "parse_config",
    "revision_of",
]
