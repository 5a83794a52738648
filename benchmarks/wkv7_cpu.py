"""Times every WKV-7 backend on the CPU, side by side in one process, and writes a JSON file with the ratios.

    python benchmarks/wkv7_cpu.py [-o benchmarks/results/wkv7_cpu.json] [--repeat 7] [--threads N]

Backends take turns within each repetition, so that a slow moment of the machine hits all of them. The fastest of the
repetitions counts; close other programs first, threads that must wait for a busy core are many times slower.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor

from model.kernels import available_backends, wkv7

SHAPES = ((8, 256, 2), (8, 1024, 4), (2, 4096, 12))  # B, T, H
HEAD_SIZE = 64


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def make_inputs(B: int, T: int, H: int, N: int) -> Inputs:
    """r w k v a b s0 as RWKV-7 makes them."""
    generator = torch.Generator().manual_seed(0)
    r, w, k, v, kk, rate = (torch.randn(B, T, H, N, generator=generator) for _ in range(6))
    kk = torch.nn.functional.normalize(kk, dim=-1)
    s0 = torch.randn(B, H, N, N, generator=generator)
    inputs = (r, -0.6065 * w.sigmoid(), 0.5 * k, v, -kk, kk * rate.sigmoid(), s0)
    for x in inputs:
        x.requires_grad_()
    return inputs


def forward(inputs: Inputs, backend: str) -> None:
    with torch.no_grad():
        wkv7(*inputs, backend=backend)


def forward_backward(inputs: Inputs, backend: str) -> None:
    y, sT = wkv7(*inputs, backend=backend)
    torch.autograd.grad([y, sT], inputs, [torch.ones_like(y), torch.ones_like(sT)])


def fastest(runs: Mapping[str, Callable[[], None]], repeat: int) -> dict[str, float]:
    """Seconds of the fastest repetition of each run."""
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def measure(shape: tuple[int, int, int], repeat: int) -> dict[str, Any]:
    inputs = make_inputs(*shape, HEAD_SIZE)
    result: dict[str, Any] = {"B": shape[0], "T": shape[1], "H": shape[2], "N": HEAD_SIZE}
    for name, run in (("forward", forward), ("forward_backward", forward_backward)):
        runs = {backend: partial(run, inputs, backend) for backend in available_backends()}
        seconds = fastest(runs, repeat)
        result[name] = {
            backend: {
                "milliseconds": round(1e3 * value, 2),
                "tokens_per_second": round(shape[0] * shape[1] / value),
                "times_as_fast_as_reference": round(seconds["reference"] / value, 1),
            }
            for backend, value in seconds.items()
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="write the result here as well")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {
        "machine": machine(threads=torch.get_num_threads(), torch=torch.__version__),
        "shapes": [measure(shape, options.repeat) for shape in SHAPES],
    }
    text = json.dumps(results, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
