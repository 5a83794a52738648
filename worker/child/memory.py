"""Telling a want of memory from other errors, and making do with less; see also `worker.child.fitting`."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from worker import process_memory
from worker.errors import OutOfMemory

T = TypeVar("T")

TOO_LARGE = "one example at a time does not fit into the device's memory"

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "cublas_status_alloc_failed",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of the device or of this process, is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    # the second is what a full device says, and a sick one
    return any(sign in said for sign in _SIGNS) or ("cublas_status_not_initialized" in said and _is_full())


def _is_full() -> bool:
    """Whether a library's handle, of some hundred MiB, finds no room on the CUDA device."""
    try:
        return torch.cuda.mem_get_info()[0] < 2**30
    except (RuntimeError, AssertionError):
        return False


def is_limited(device: torch.device) -> bool:
    """Whether memory can run out with an error: an accelerator's can, a CPU's where a limit is set."""
    return device.type != "cpu" or process_memory.is_limited()


def is_held_by_others(device: torch.device) -> bool:
    """Whether other processes hold a tenth or more of an accelerator's memory, and 2 GiB at least."""
    if device.type != "cuda":
        return False
    try:
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
    except RuntimeError:  # there is too little even for this
        return False
    return others > max(total // 10, 2 * 2**30)  # this process holds some 0.5 GiB that torch does not count


def until_it_fits(call: Callable[[], T], make_do: Callable[[], bool]) -> T:
    """Calls again for as long as memory runs out and `make_do` finds a way to take less; raises OutOfMemory."""
    while True:
        try:
            return call()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = str(error)
        # outside the handler, which would keep the failed call's tensors alive
        if not make_do():
            raise OutOfMemory(f"{TOO_LARGE}: {said}")
        torch.cuda.empty_cache()


@contextmanager
def kept_bytes(besides: Iterable[torch.Tensor]) -> Iterator[Callable[[], int]]:
    """Counts the storage that autograd keeps for the backward pass of what is computed inside, `besides` left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    kept: dict[int, torch.UntypedStorage] = {}  # holds them, so that no address comes twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in kept.values())
