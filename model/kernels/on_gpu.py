"""WKV-7 on the GPU: what it can compute, and where. The kernels are `triton_chunks`, loaded when first used.

`TRITON_INTERPRET=1`, set before the process starts, runs them on the CPU instead: exact, but for tests only.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from model.errors import KernelError
from model.kernels import two_parts

HEAD_SIZES = (16, 32, 64, 128)
DTYPES = (torch.float32, torch.bfloat16)
# major compute capabilities: B200 and its kin, whose matrix units keep their sums there
TENSOR_MEMORY = (10, 11)
MOST_HEADS = 65_535  # of all sequences together: blocks of a launch in its second dimension

_log = logging.getLogger(__name__)


def wkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    s0: Tensor,
    steps: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute WKV-7 as `reference.wkv7` does, in float32, from inputs that may each be float32 or bfloat16.

    With `steps` of sequences in two parts.
    `y` and `sT` are float32. Inputs that are not contiguous are copied. Decays beyond exp(-18) count as that.
    Raises `KernelError` for tensors of other dtypes, on other devices or of other head sizes.
    """
    inputs = (r, w, k, v, a, b)
    where = "cpu" if _is_interpreted() else "cuda"
    if not all(x.device.type == where and x.dtype in DTYPES for x in (*inputs, s0)):
        raise KernelError(
            f"backend triton cannot compute {r.dtype} on {r.device}: expected float32 or bfloat16 on {where}"
        )
    if r.shape[-1] not in HEAD_SIZES:
        raise KernelError(
            f"backend triton cannot compute head size {r.shape[-1]}: expected one of {HEAD_SIZES}"
        )
    if missing := _what_is_missing():
        raise KernelError(f"backend triton is not available: {missing}")
    from model.kernels import triton_operator

    at_once = max(1, MOST_HEADS // r.shape[2])  # sequences
    if steps is not None:
        if len(s0) > at_once:
            return two_parts.wkv7(wkv7, (*inputs, s0), steps)
        y_of_all, between, _ = triton_operator.wkv7(*(x.contiguous() for x in (*inputs, s0)), steps)
        return y_of_all, between
    parts = zip(*(torch.split(x.contiguous(), at_once) for x in (*inputs, s0)), strict=True)
    y, sT, _ = zip(*(triton_operator.wkv7(*part) for part in parts), strict=True)
    return (y[0], sT[0]) if len(y) == 1 else (torch.cat(y), torch.cat(sT))


def is_available() -> bool:
    """Return whether there is Triton, and a GPU that it compiles for, or its interpreter; log once if not."""
    return not _what_is_missing()


@functools.cache
def _what_is_missing() -> str:
    """Why Triton cannot compute here; empty where it can."""
    has_gpu = torch.cuda.is_available() and torch.version.hip is None
    if importlib.util.find_spec("triton") is None:
        missing = "triton is not installed"
    elif _is_interpreted():
        return ""
    elif not has_gpu:
        missing = "there is no CUDA device"
    else:
        missing = _unfit(torch.cuda.get_device_capability())
    if missing and has_gpu:
        _log.warning("WKV-7 runs without its Triton kernels, which is many times slower: %s", missing)
    return missing


def _unfit(capability: tuple[int, int]) -> str:
    """Why the kernels cannot run on GPUs of a compute capability; empty where they can."""
    if capability < (8, 0):
        return f"they need compute capability 8.0, and this GPU has {capability[0]}.{capability[1]}"
    if capability[0] in TENSOR_MEMORY:
        return (
            f"they do not fit the tensor memory of GPUs of compute capability {capability[0]}.{capability[1]}"
        )
    return ""


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
