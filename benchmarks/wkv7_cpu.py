"""Times every WKV-7 backend on the CPU, and the C kernel as processors with narrower vectors have it.

    python benchmarks/wkv7_cpu.py [-o FILE.json] [--repeat 7] [--threads N]

All run in one process and take turns, in an order that is drawn anew each time, so that a slow moment of the machine
hits all of them. What is short runs several times in a turn. The fastest run counts; there are fewer turns where they
take long. Close other programs first: threads that must wait for a busy core are many times slower. The load averages
at start and end are in the result.

The FMA limit is what a loop of multiply-adds on registers (`fma_limit.c`) reaches with all threads, built by the same
compiler for the same vectors. Shares of it are counted in two ways, both by what the recurrence needs per token and
head, whatever a kernel does instead:

- flop: 9 N^2 forward (decay of S 1; S a, u b^T, v k^T and S r 2 each), 19 N^2 backward (decay of the gradient of S 1;
  dy r^T, du a^T, dr, dw, dk, dv, da, db and du 2 each). States computed again in the backward pass do not count.
- instructions, where a multiply-add is one and so is a product alone: 5 N^2 forward, 21 N^2 in both passes. The
  target's shares (61 % forward, 36 to 45 % in both) are counted so; its recurrence computes its states again. The
  operations above and those for the states again are 20.

Time is on the clock: that of processors, some virtual machines account for in lumps.
"""

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor
from training_environment import as_in_training

from model.kernels import available_backends, build, wkv7
from model.kernels.c_kernels import Kernels

SHAPES = ((8, 256, 2), (8, 1024, 4), (2, 4096, 12))  # B, T, H
HEAD_SIZE = 64
FLOP = {"forward": 9, "forward_backward": 28}  # times N^2, per token and head
INSTRUCTIONS = {"forward": 5, "forward_backward": 21}  # the same, each could be 2 flop
BUILDS: dict[str, tuple[str, ...]] = {"native": ()}
if platform.machine() == "x86_64":
    BUILDS |= {"AVX2": ("-mno-avx512f",), "SSE": ("-mno-avx512f", "-mno-avx")}
TURN = 0.1  # seconds, at least
LONG = 4.0  # seconds, after which a run is not repeated any more
ROUNDS = 2_000_000  # of the loop that finds the FMA limit


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Run = Callable[[], None]


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


def forward_of_build(inputs: Inputs, kernels: Kernels) -> None:
    kernels.forward(inputs)


def forward_backward_of_build(inputs: Inputs, kernels: Kernels) -> None:
    y, sT, *saved = kernels.forward_for_backward(inputs)
    kernels.backward([*inputs, *saved], torch.ones_like(y), torch.ones_like(sT))


def fastest(runs: Mapping[str, Run], repeat: int) -> dict[str, float]:
    """The least seconds of each run."""
    least = dict.fromkeys(runs, float("inf"))
    turns = random.Random(0)
    for repetition in range(repeat):
        for name in turns.sample(list(runs), len(runs)):
            if repetition == 0 or repetition * least[name] <= LONG:
                least[name] = min(least[name], *turn(runs[name]))
    return least


def turn(run: Run) -> list[float]:
    """Seconds of runs in a row, as in a loop: what is small finds its tensors in the cache."""
    seconds = [timed(run)]
    while sum(seconds) < TURN:
        seconds.append(timed(run))
    return seconds


def timed(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Build:
    """The C kernel for vectors of some width, and how fast the processor multiplies and adds with those."""

    def __init__(self, flags: tuple[str, ...]) -> None:
        self.kernels = Kernels(build.library(HEAD_SIZE, flags))
        self._limit = build.compiled_source(Path(__file__).with_name("fma_limit.c"), flags)
        self.lanes = int(self._limit.lanes())
        self.is_fused = bool(self._limit.is_fused())
        self.limit = 0.0  # flop a second, of all threads

    def find_limit(self) -> None:
        threads = torch.get_num_threads()
        seconds = timed(lambda: self._limit.multiply_add(ROUNDS, threads))
        self.limit = max(self.limit, threads * ROUNDS * self._limit.flop_per_round() / seconds)

    def share(self, flop: int, seconds: float) -> float:
        """Of the limit, that so many flop in so many seconds are."""
        return round(flop / seconds / self.limit, 3)


def measure(
    shape: tuple[int, int, int], builds: Mapping[str, Build], repeat: int
) -> dict[str, dict[str, float]]:
    """Seconds of every backend and build, forward and in both passes."""
    inputs = make_inputs(*shape, HEAD_SIZE)
    limits = {f"limit of {name}": one.find_limit for name, one in builds.items()}
    seconds = {}
    for name, of_backend, of_build in (
        ("forward", forward, forward_of_build),
        ("forward_backward", forward_backward, forward_backward_of_build),
    ):
        backends = {backend: partial(of_backend, inputs, backend) for backend in available_backends()}
        kernels = {build_name: partial(of_build, inputs, one.kernels) for build_name, one in builds.items()}
        seconds[name] = fastest(backends | kernels | limits, repeat)
    return seconds


def report(
    shape: tuple[int, int, int], seconds: Mapping[str, dict[str, float]], builds: Mapping[str, Build]
) -> dict[str, Any]:
    B, T, H = shape
    result: dict[str, Any] = {"B": B, "T": T, "H": H, "N": HEAD_SIZE}
    for name, of in seconds.items():
        elements = HEAD_SIZE**2 * B * T * H  # of all states
        result[name] = {
            "backends": {
                backend: {
                    "milliseconds": round(1e3 * of[backend], 2),
                    "tokens_per_second": round(B * T / of[backend]),
                    "times_as_fast_as_reference": round(of["reference"] / of[backend], 1),
                }
                for backend in available_backends()
            },
            "builds": {
                build_name: {
                    "milliseconds": round(1e3 * of[build_name], 2),
                    "share_of_fma_limit": {
                        "flop": one.share(FLOP[name] * elements, of[build_name]),
                        "instructions": one.share(2 * INSTRUCTIONS[name] * elements, of[build_name])
                        if one.is_fused
                        else None,
                    },
                    "times_as_long_as_native": round(of[build_name] / of["native"], 2),
                    "times_as_fast_as_chunked": round(of["chunked"] / of[build_name], 1),
                }
                for build_name, one in builds.items()
            },
        }
    return result


def main() -> None:
    as_in_training()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="write the result here as well")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = [os.getloadavg()[0]]
    builds = {name: Build(flags) for name, flags in BUILDS.items()}
    seconds = {shape: measure(shape, builds, options.repeat) for shape in SHAPES}
    load.append(os.getloadavg()[0])
    results = {
        "machine": machine(threads=torch.get_num_threads(), torch=torch.__version__, load_averages=load),
        "builds": {
            name: {
                "flags": " ".join(BUILDS[name]),
                "bits_of_a_vector": 32 * one.lanes,
                "fma_limit_gflop_per_second": round(one.limit / 1e9, 1),
            }
            for name, one in builds.items()
        },
        "shapes": [report(shape, seconds[shape], builds) for shape in SHAPES],
    }
    text = json.dumps(results, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
