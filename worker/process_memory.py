"""How a training process takes memory from the system, and gives it back."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress

KEEPING = {
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that every version accepts
}
"""Variables by which glibc's malloc keeps what is freed, which the system would clear for the next step."""

SPARING = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
"""Variables by which it gives every larger block back at once: none of a limited memory is lost between the blocks.

By itself glibc raises this threshold as blocks are freed, and what then fits is half as much or less, by chance.
"""


def is_limited() -> bool:
    """Whether this process, and what it starts, may only have so much memory."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return any(limit != resource.RLIM_INFINITY for limit in limits)


def give_back() -> None:
    """Gives the system the memory that malloc keeps, if it is glibc's."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
