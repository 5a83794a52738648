"""Telling a want of memory from other errors; what fits is found out in `worker.fitting`."""

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
