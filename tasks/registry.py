"""Task kinds by name, from the entry points of group `fsq.tasks`; a broken plug-in harms only itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.config import TaskConfig
from tasks.errors import BrokenTaskKind, UnknownTaskKind, in_words, plug_in, shown
from tasks.rows import suggestion
from tasks.task import Task

GROUP = "fsq.tasks"


class _Kind(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    kind: str


def kinds() -> dict[str, type[Task[Any]]]:
    """All usable task kinds, sorted by name. One that is registered but broken is left out here:
    `get_kind` says why."""
    usable = {}
    for name in sorted({entry.name for entry in _registered()}):
        try:
            usable[name] = get_kind(name)
        except BrokenTaskKind:
            continue
    return usable


def get_kind(name: str) -> type[Task[Any]]:
    """The task class of one kind; UnknownTaskKind, or BrokenTaskKind with the plug-in's own error."""
    entries = {entry.value: entry for entry in _registered() if entry.name == name}
    if not entries:
        known = sorted({entry.name for entry in _registered()})
        hint = suggestion([name], known)
        raise UnknownTaskKind(f"no task kind '{shown(name)}'{hint}: expected one of {', '.join(known)}")
    if len(entries) > 1:
        raise BrokenTaskKind(f"task kind {name!r} is registered more than once: {', '.join(sorted(entries))}")
    return _load(next(iter(entries.values())))


def _registered() -> tuple[EntryPoint, ...]:
    return _registered_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _registered_on(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What the packages on a search path have registered; to look takes longer than most of what is done with it."""
    return tuple(entry_points(group=GROUP))


def _load(entry: EntryPoint) -> type[Task[Any]]:
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:
        origin = entry.dist.name if entry.dist else "an unknown package"
        raise BrokenTaskKind(
            f"task kind {entry.name!r} ({entry.value} of {origin}) cannot be loaded: {in_words(error)}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Task)):
        raise BrokenTaskKind(f"task kind {entry.name!r}: {entry.value} is not a subclass of tasks.Task")
    if flaw := _flaw(loaded):
        raise BrokenTaskKind(f"task kind {entry.name!r}: {entry.value} {flaw}")
    return loaded


def _flaw(task: type[Task[Any]]) -> str | None:
    """What a task class lacks that every kind has."""
    config = getattr(task, "Config", None)
    if not (isinstance(config, type) and issubclass(config, TaskConfig)):
        return "has no Config that is a subclass of tasks.TaskConfig"
    if not isinstance(getattr(task, "summary", None), str):
        return "has no summary, one line of text"
    missing = sorted(task.__abstractmethods__)
    return f"does not define {', '.join(missing)}" if missing else None


def parse_config(options: Mapping[str, Any]) -> TaskConfig:
    """Options validated by the kind's own config class.

    Raises UnknownTaskKind, BrokenTaskKind, or pydantic's ValidationError with the place of each error.
    """
    kind = _Kind.model_validate(dict(options)).kind
    config = get_kind(kind).Config
    with plug_in(kind, "to check its options", passing=(ValidationError,)):
        return config.model_validate(dict(options))
