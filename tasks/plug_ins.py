"""Classes that installed packages register, by entry points; a broken one harms only itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tasks.errors import in_words


class BrokenPlugIn(Exception):
    """A class is registered under a name, but cannot be used; says which, and why."""


@dataclass(frozen=True)
class PlugIns:
    """The classes of one group, all of one base."""

    group: str
    what: str  # each is, in messages
    base: type
    public_base: str  # where its authors find the base

    def names(self) -> list[str]:
        """What is registered, sorted."""
        return sorted({entry.name for entry in _entries(self.group)})

    def load(self, name: str) -> type[Any] | None:
        """The class of a name; None where none is registered. Raises BrokenPlugIn, with the plug-in's own error."""
        entries = {entry.value: entry for entry in _entries(self.group) if entry.name == name}
        if not entries:
            return None
        if len(entries) > 1:
            several = ", ".join(sorted(entries))
            raise BrokenPlugIn(f"{self.what} {name!r} is registered more than once: {several}")
        (entry,) = entries.values()
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:
            origin = entry.dist.name if entry.dist else "an unknown package"
            raise BrokenPlugIn(
                f"{self.what} {name!r} ({entry.value} of {origin}) cannot be loaded: {in_words(error)}"
            ) from error
        if flaw := self._flaw(loaded):
            raise BrokenPlugIn(f"{self.what} {name!r}: {entry.value} {flaw}")
        found: type[Any] = loaded
        return found

    def _flaw(self, loaded: object) -> str | None:
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            return f"is not a subclass of {self.public_base}"
        missing = sorted(getattr(loaded, "__abstractmethods__", ()))
        return f"does not define {', '.join(missing)}" if missing else None


def _entries(group: str) -> tuple[EntryPoint, ...]:
    return _entries_on(group, tuple(sys.path))


@lru_cache(maxsize=2)
def _entries_on(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What the packages on a search path have registered; to look takes longer than most of what is done with it."""
    return tuple(entry_points(group=group))
