"""When memory is short: telling it from other errors, and finding out before training what fits.

The largest batch that a run can meet is tried once, so that a run dies of it at its start or never, and all
arms of a task start with the same micro-batch. What fitted is remembered for jobs of the same shapes.
"""

from __future__ import annotations

import resource

import torch

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "cublas_status_alloc_failed",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of the device or of this process, is used up."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)
    )


def is_limited(device: torch.device) -> bool:
    """Whether memory can run out with an error: an accelerator's can, a CPU's where a limit is set."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return device.type != "cpu" or any(limit != resource.RLIM_INFINITY for limit in limits)
