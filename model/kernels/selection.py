"""Which backend computes what: the first of a table, in order of measured speed, that can (docs/performance.md)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch

from model.kernels import compiled, on_gpu


class Choice(NamedTuple):
    """A backend for tensors of some kind, and why it is the one."""

    backend: str
    why: str


class _Row(NamedTuple):
    device: str  # type; empty: any
    choice: Choice
    can: Callable[[torch.dtype, int], bool]  # dtype, head size


def _on_cpu(dtype: torch.dtype, head_size: int) -> bool:
    return dtype == torch.float32 and compiled.is_available(head_size)


def _on_gpu(dtype: torch.dtype, head_size: int) -> bool:
    return dtype in on_gpu.DTYPES and head_size in on_gpu.HEAD_SIZES and on_gpu.is_available()


_TABLE = (
    _Row(
        "cpu",
        Choice("compiled", "the fastest on a CPU at every shape measured (benchmarks/wkv7_cpu.py)"),
        _on_cpu,
    ),
    _Row(
        "cuda",
        Choice(
            "triton",
            "parallel over time; 10 to 69 times as fast as chunked on an H100 (benchmarks/wkv7_gpu.py)",
        ),
        _on_gpu,
    ),
    _Row(
        "", Choice("chunked", "needs nothing but torch, and computes every kind of tensor"), lambda *_: True
    ),
)


@functools.cache  # asked for every layer of every step
def choose(device: torch.device | str, dtype: torch.dtype, head_size: int) -> Choice:
    """Return the backend for tensors of this kind. What it cannot do for want of a compiler, the log says once."""
    kind = torch.device(device).type
    return next(row.choice for row in _TABLE if row.device in (kind, "") and row.can(dtype, head_size))
