"""Task kinds by name, from the entry points of group `fsq.tasks`; a broken plug-in harms only itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.config import TaskConfig
from tasks.errors import BrokenTaskKind, UnknownTaskKind, blaming_kind, shown
from tasks.plug_ins import BrokenPlugIn, PlugIns
from tasks.rows import suggestion
from tasks.task import Task

_REGISTERED = PlugIns("fsq.tasks", "task kind", Task, "tasks.Task")


class _Kind(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    kind: str


def kinds() -> dict[str, type[Task[Any]]]:
    """All usable task kinds, sorted by name. One that is registered but broken is left out here:
    `get_kind` says why."""
    usable = {}
    for name in _REGISTERED.names():
        try:
            usable[name] = get_kind(name)
        except BrokenTaskKind:
            continue
    return usable


def get_kind(name: str) -> type[Task[Any]]:
    """The task class of one kind; UnknownTaskKind, or BrokenTaskKind with the plug-in's own error."""
    try:
        task = _REGISTERED.load(name)
    except BrokenPlugIn as error:
        raise BrokenTaskKind(str(error)) from error
    if task is None:
        known = _REGISTERED.names()
        hint = suggestion([name], known)
        raise UnknownTaskKind(f"no task kind '{shown(name)}'{hint}: expected one of {', '.join(known)}")
    if flaw := _flaw(task):
        raise BrokenTaskKind(f"task kind {name!r}: {task.__module__}:{task.__qualname__} {flaw}")
    return task


def _flaw(task: type[Task[Any]]) -> str | None:
    """What a task class lacks that every kind has."""
    config = getattr(task, "Config", None)
    if not (isinstance(config, type) and issubclass(config, TaskConfig)):
        return "has no Config that is a subclass of tasks.TaskConfig"
    if not isinstance(getattr(task, "summary", None), str):
        return "has no summary, one line of text"
    return None


def parse_config(options: Mapping[str, Any]) -> TaskConfig:
    """Options validated by the kind's own config class.

    Raises UnknownTaskKind, BrokenTaskKind, or pydantic's ValidationError with the place of each error.
    """
    kind = _Kind.model_validate(dict(options)).kind
    config = get_kind(kind).Config
    with blaming_kind(kind, "to check its options", passing=(ValidationError,)):
        return config.model_validate(dict(options))
