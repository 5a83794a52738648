"""What a check says."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was checked; `advice` says what to do when it is not fine."""

    what: str
    is_fine: bool
    found: str
    advice: str = ""

    @classmethod
    def fine(cls, what: str, found: str, advice: str = "") -> Finding:
        return cls(what, True, found, advice)

    @classmethod
    def problem(cls, what: str, found: str, advice: str) -> Finding:
        return cls(what, False, found, advice)
