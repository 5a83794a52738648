"""What a training step of the 0.1B model takes, 8 prompts of 3,072 tokens, and the GPU kernel alone; without a GPU.

    python benchmarks/memory.py [--batch 8] [--prompt 3072] [--answer 160] [-o benchmarks/results/memory.json]

Every tensor is fake: it has a shape and a dtype, and no contents. Each storage counts from the operation that makes
it to its release, so the largest sum is what the allocator must give, but for fragments. The step is the second one,
when AdamW's moments exist. Matrix products are in bfloat16 as on a GPU, and the kernel's own intermediate tensors
count: its operators' bodies run, all but the launches. `benchmarks/step.py --device cuda` measures the same there,
and `benchmarks/wkv7_gpu.py` what the kernel takes beyond its inputs, both passes, from bfloat16.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import RWKV7, FutureSeed, FutureSeedSettings, ModelShape, time_mix
from model.kernels import triton_operator
from worker.child.passes import answer_loss

LAYERS, WIDTH, VOCABULARY = 12, 768, 65536
TARGET_GIB = 8
KERNEL_SHAPES = ((8, 4096, 12), (2, 4096, 12), (8, 1024, 12), (1, 8192, 12))  # B, T, H
HEAD_SIZE = 64
# What the operators do, instead of what they say of their results: it makes tensors of its own.
BODIES = {
    torch.ops.fsq.wkv7.default: triton_operator.wkv7._init_fn,
    torch.ops.fsq.wkv7_backward.default: triton_operator.wkv7_backward._init_fn,
}


class Storages(TorchDispatchMode):
    """Adds up the bytes of all storages that exist, and remembers the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._known: dict[int, int] = {}

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.most = max(self.most, self.bytes)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.bytes -= self._known.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in BODIES:
            with self:
                return BODIES[func](*args)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def kernel(*inputs: Tensor, steps: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """The Triton backend, whether or not there is a GPU."""
    y, sT, _ = triton_operator.wkv7(*(x.contiguous() for x in inputs), steps)
    return y, sT


def without_launching() -> Any:
    return patch.multiple(
        triton_operator,
        _spanwise=lambda *_, **__: None,
        _chunkwise=lambda *_, **__: None,
        _scan=lambda *_, **__: None,
    )


def answer_states(
    model: RWKV7, future_seed: FutureSeed, size: int, prompt: int, answer: int, *, recompute: bool
) -> Tensor:
    """As in training; no sequence is padded, as lengths that are compared have to have contents."""
    prompts = torch.zeros(size, prompt, dtype=torch.int64)
    answers = torch.zeros(size, answer - 1, dtype=torch.int64)
    return model.teacher_forced(prompts, answers, future_seed, recompute=recompute).flatten(0, 1)


def account(size: int, prompt: int, answer: int, *, recompute: bool) -> dict[str, float]:
    """GiB at the points of a step."""
    shape = ModelShape.random(LAYERS, WIDTH, VOCABULARY)
    model = RWKV7(shape)
    future_seed = FutureSeed(FutureSeedSettings(layer_start=1, alpha_lr=1e-3), shape)
    parameters = [*model.parameters(), *future_seed.parameters()]
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], fused=True)
    found: dict[str, float] = {}
    with Storages() as storages:
        for parameter in parameters:
            storages.add(parameter)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            found["weights and moments"] = storages.bytes
            storages.most = storages.bytes
            with torch.autocast("cpu", torch.bfloat16):
                hidden = answer_states(model, future_seed, size, prompt, answer, recompute=recompute)
                loss = answer_loss(model, hidden, torch.zeros(size * answer, dtype=torch.int64))
            found["after the forward pass"] = storages.bytes
            del hidden
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            found["at most"] = storages.most
            del loss
    return {point: round(size / 2**30, 2) for point, size in found.items()}


def kernel_alone(B: int, T: int, H: int) -> int:
    """MiB beyond the inputs, in both passes."""
    inputs = [torch.empty(B, T, H, HEAD_SIZE, dtype=torch.bfloat16, requires_grad=True) for _ in range(6)]
    inputs.append(torch.empty(B, H, HEAD_SIZE, HEAD_SIZE, requires_grad=True))
    with Storages() as storages:
        y, sT = kernel(*inputs)
        torch.autograd.grad([y, sT], inputs, [torch.ones_like(y), torch.ones_like(sT)])
    return round(storages.most / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=3072)
    parser.add_argument("--answer", type=int, default=160)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "memory.json"
    )
    arguments = parser.parse_args()
    sizes = (arguments.batch, arguments.prompt, arguments.answer)
    found: dict[str, Any] = {"torch": torch.__version__, "batch, prompt, answer": sizes, "target": TARGET_GIB}
    with FakeTensorMode(), without_launching(), patch.object(time_mix, "wkv7", kernel):
        for how in ("recomputed", "plain"):
            found[f"GiB, activations {how}"] = account(*sizes, recompute=how == "recomputed")
        found["MiB of the kernel beyond its inputs"] = {
            f"{shape}": kernel_alone(*shape) for shape in KERNEL_SHAPES
        }
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    arguments.output.write_text(text)


if __name__ == "__main__":
    main()
