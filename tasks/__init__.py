"""Tasks: turns data sets into examples, a prompt and an answer as token ids.

Here live the task kinds (one module each), the readers, the common builder with its limits, notes and
report, and the cache of built examples. No model, no training, no torch, no database: those come later
and know this package, not the other way round. Third-party kinds come in by entry points `fsq.tasks`. Importing this
package does not import numpy: what builds examples is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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
from tasks.splits import Split
from tasks.task import Task
from tasks.tokens import Tokenizer

if TYPE_CHECKING:
    from tasks.builder import build
    from tasks.sources import revision_of

_BUILDS = {"build": "tasks.builder", "revision_of": "tasks.sources"}

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


def __getattr__(name: str) -> object:
    if name not in _BUILDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_BUILDS[name]), name)
    globals()[name] = value
    return value
