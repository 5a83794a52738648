"""Lengths of time as people write them (12h, 30d, 52w) and read them."""

from __future__ import annotations

import re
from datetime import timedelta

from orchestrator.errors import BadInput

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """A whole number of minutes, hours, days or weeks; raises BadInput."""
    form = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)
    if form is None:
        raise BadInput(f"{text!r} is no length of time; write it as 90m, 12h, 30d or 52w")
    return timedelta(**{_UNITS[form[2]]: int(form[1])})


def duration(seconds: float) -> str:
    """A length of time for people: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
