"""Times WKV-7 on a GPU beside what others use, in bfloat16, and writes a JSON file with errors, memory and ratios.

    python benchmarks/wkv7_gpu.py [-o benchmarks/results/wkv7_gpu.json] [--repeat 20] [--official FOLDER...]

Peers: our `triton` and `chunked`; `chunk_rwkv7` of fla-core (`pip install fla-core`), as it is by default and with
`safe_gate`; the official CUDA recurrences whose source lies in a folder that `--official` names (needs nvcc and
ninja): that of RWKV-LM, `RWKV-v7/train_temp/cuda`, which has no states, and the state-passing one of RWKV-CUDA,
`rwkv7_fast_fused/cuda`. What is missing here is listed in the result, with the reason.

Peers take turns within each repetition, so that a slow moment hits all of them; the median of the repetitions counts.
Errors are against the recurrence in float64 on the same inputs: largest error over largest value, of y, of the last
state, and of the gradient that has most.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine
from torch import Tensor
from wkv7_cpu import HEAD_SIZE, Inputs, make_inputs

from model.kernels import wkv7

SHAPES = ((8, 4096, 12), (2, 4096, 12), (8, 1024, 12), (1, 8192, 12))  # B, T, H
SHAPE_OF_ERRORS = (2, 512, 2)
FASTEST_DECAY = -0.6065306597
OUTPUT = Path(__file__).parent / "results" / "wkv7_gpu.json"

Compute = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Peer:
    """`compute` takes r w k v a b s0, and returns y and the last state, None if it has no states."""

    compute: Compute
    takes_logit: bool = False  # w as what the log-decay is FASTEST_DECAY * sigmoid of
    has_states: bool = True


# --- peers


def find_peers(folders: list[Path]) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that work here, and why the others do not."""
    peers = {backend: Peer(partial(wkv7, backend=backend)) for backend in ("triton", "chunked")}
    missing = {}
    try:
        from fla.ops.rwkv7 import chunk_rwkv7
    except ImportError as error:
        missing["fla"] = missing["fla safe_gate"] = f"not installed: {error}"
    else:
        peers["fla"] = Peer(partial(fla, chunk_rwkv7))
        peers["fla safe_gate"] = Peer(
            partial(fla, partial(chunk_rwkv7, safe_gate=True, lower_bound=FASTEST_DECAY))
        )
    for name, official in OFFICIAL.items():
        try:
            official.build(folders)
        except (OSError, RuntimeError, ImportError) as error:
            missing[name] = f"not built: {error}"
        else:
            peers[name] = Peer(official.compute, takes_logit=True, has_states=official.has_states)
    return peers, missing


def fla(
    chunk_rwkv7: Callable[..., Any],
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    s0: Tensor,
) -> tuple[Tensor, Tensor]:
    """Its states are [key, value], ours the other way round."""
    y, sT = chunk_rwkv7(
        r=r, w=w, k=k, v=v, a=a, b=b, initial_state=s0.mT.contiguous(), output_final_state=True
    )
    return y, sT.mT


@dataclass(frozen=True)
class Official:
    """A CUDA recurrence of the official project; it keeps a state every CHUNK steps, and w as a logit."""

    library: str
    source: str
    has_states: bool

    def build(self, folders: list[Path]) -> None:
        from torch.utils.cpp_extension import load

        folder = next((folder for folder in folders if (folder / f"{self.library}.cpp").exists()), None)
        if folder is None:
            raise FileNotFoundError(f"no --official folder has {self.library}.cpp")
        chunk = f"-D_CHUNK_LEN_={CHUNK}"
        load(
            name=self.library,
            sources=[str(folder / f"{self.library}.cpp"), str(folder / self.source)],
            is_python_module=False,
            extra_cuda_cflags=[f"-D_N_={HEAD_SIZE}", chunk, "--use_fast_math", "-O3"],
        )

    def compute(self, *inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return Recurrence.apply(self, *inputs)


OFFICIAL = {
    "official": Official("rwkv7_clampw_v3", "rwkv7_clampw_v3_for_h100.cu", has_states=False),
    "official states": Official("rwkv7_statepassing_clampw", "rwkv7_statepassing_clampw.cu", has_states=True),
}
CHUNK = 16


class Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, official: Official, *tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        *inputs, s0 = tensors
        B, T, H, N = inputs[0].shape
        y, u = torch.empty_like(inputs[0]), s0.new_empty(B, T, H, N)
        sT, states = torch.empty_like(s0), s0.new_empty(B, H, T // CHUNK, N, N)
        operators = getattr(torch.ops, official.library)
        if official.has_states:
            operators.forward(s0, *inputs, y, sT, states, u)
        else:
            operators.forward(*inputs, y, states, u)
        ctx.save_for_backward(*inputs, states, u)
        ctx.official = official
        return y, sT if official.has_states else None

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dsT: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, states, u = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in inputs]
        operators = getattr(torch.ops, ctx.official.library)
        if not ctx.official.has_states:
            operators.backward(*inputs, dy.contiguous(), states, u, *gradients)
            return None, *gradients, None
        assert dsT is not None
        ds0 = torch.empty_like(dsT)
        operators.backward(*inputs, dy.contiguous(), dsT.contiguous(), states, u, ds0, *gradients)
        return None, *gradients, ds0


# --- inputs


def on_gpu(inputs: Inputs) -> list[Tensor]:
    """All in bfloat16, but the state."""
    *others, s0 = (x.detach().cuda() for x in inputs)
    return [x.bfloat16() for x in others] + [s0]


def repeated_keys(B: int, T: int, H: int, N: int) -> Inputs:
    """A run of the same token: keys that hardly differ, nearly replaced at each step, hardly any decay."""
    r, w, _, v, a, _, s0 = make_inputs(B, T, H, N)
    kk = torch.nn.functional.normalize(a[:, :1] + 0.3 * N**-0.5 * r, dim=-1)
    return r, torch.full_like(w, -1e-3), 0.5 * kk, v, -kk, 0.99 * kk, s0


def for_peer(peer: Peer, inputs: list[Tensor]) -> list[Tensor]:
    inputs = list(inputs)
    if peer.takes_logit:
        inputs[1] = (inputs[1].float() / FASTEST_DECAY).logit().bfloat16()
    return [x.detach().requires_grad_() for x in inputs]


def exact_inputs(peer: Peer, inputs: list[Tensor]) -> list[Tensor]:
    """What the peer really computes with, in float64."""
    exact = [x.detach().double() for x in for_peer(peer, inputs)]
    if peer.takes_logit:
        exact[1] = FASTEST_DECAY * exact[1].sigmoid()
    if not peer.has_states:
        exact[6] = torch.zeros_like(exact[6])
    return [x.requires_grad_() for x in exact]


# --- measurements


def forward(compute: Compute, inputs: list[Tensor]) -> None:
    with torch.no_grad():
        compute(*inputs)


def forward_backward(compute: Compute, inputs: list[Tensor]) -> list[Tensor]:
    """y, the last state, and the gradients of a loss in which both count."""
    outputs = [x for x in compute(*inputs) if x is not None]
    leaves = inputs if len(outputs) == 2 else inputs[:6]
    generator = torch.Generator(inputs[0].device).manual_seed(0)
    weights = [torch.randn(x.shape, device=x.device, generator=generator) for x in outputs]
    weights = [weight.bfloat16().to(x.dtype) for weight, x in zip(weights, outputs, strict=True)]
    return [*outputs, *torch.autograd.grad(outputs, leaves, weights)]


def errors(peer: Peer, inputs: list[Tensor]) -> dict[str, float]:
    found = forward_backward(peer.compute, for_peer(peer, inputs))
    compute: Compute = partial(wkv7, backend="reference")
    if not peer.has_states:
        compute = partial(_y_alone, compute)
    exact = forward_backward(compute, exact_inputs(peer, inputs))
    names = ["y", *(["sT"] if peer.has_states else []), "dr", "dw", "dk", "dv", "da", "db", "ds0"]
    each = {
        name: float((x.detach().double() - y.detach()).abs().max() / y.detach().abs().max())
        for name, x, y in zip(names, found, exact, strict=False)
        if not (peer.takes_logit and name == "dw")  # its is that of the logit
    }
    worst = max((name for name in each if name[0] == "d"), key=lambda name: each[name])
    return {name: each[name] for name in ("y", "sT", worst) if name in each}


def errors_of_all(peers: dict[str, Peer], missing: dict[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    """By kind of inputs and by peer. One that fails is no peer any more."""
    kinds = {"random": make_inputs, "repeated keys": repeated_keys}
    found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in kinds}
    for kind, make in kinds.items():
        inputs = on_gpu(make(*SHAPE_OF_ERRORS, HEAD_SIZE))
        for name in list(peers):
            try:
                found[kind][name] = errors(peers[name], inputs)
            except Exception as error:  # whatever other people's compilers raise
                if name == "triton":
                    raise
                missing[name] = f"failed: {type(error).__name__}: {error}"
                del peers[name]
    return found


def _y_alone(compute: Compute, *inputs: Tensor) -> tuple[Tensor, None]:
    return compute(*inputs)[0], None


def medians(runs: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Milliseconds of each run, the runs taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(-3, repeat):  # the first three warm up
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if repetition >= 0:
                taken[name].append(start.elapsed_time(end))
    return {name: median(times) for name, times in taken.items()}


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that a run takes at most, beyond its inputs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(peers: dict[str, Peer], shape: tuple[int, int, int], repeat: int) -> dict[str, Any]:
    B, T, H = shape
    inputs = on_gpu(make_inputs(B, T, H, HEAD_SIZE))
    result: dict[str, Any] = {"B": B, "T": T, "H": H, "N": HEAD_SIZE}
    for what in (forward, forward_backward):
        runs = {name: partial(what, peer.compute, for_peer(peer, inputs)) for name, peer in peers.items()}
        milliseconds = medians(runs, repeat)
        result[what.__name__] = {
            name: {
                "milliseconds": round(milliseconds[name], 3),
                "tokens_per_second": round(1e3 * B * T / milliseconds[name]),
                "times_as_long_as_triton": round(milliseconds[name] / milliseconds["triton"], 2),
                "peak_memory_bytes": peak_memory(runs[name]),
            }
            for name in runs
        }
    ours = partial(forward_backward, peers["triton"].compute, for_peer(peers["triton"], inputs))
    result["milliseconds of triton by kernel"] = kernels_of(ours, 5)
    return result


def kernels_of(run: Callable[[], object], repeat: int) -> dict[str, float]:
    """Milliseconds on the GPU of each of our kernels, the longest first; the mean of the repetitions."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeat):
            run()
        torch.cuda.synchronize()
    taken = {event.key: event.self_device_time_total / 1e3 / repeat for event in profile.key_averages()}
    return {
        name: round(milliseconds, 4)
        for name, milliseconds in sorted(taken.items(), key=lambda item: -item[1])
        if name.isidentifier()  # those of torch are called `void at::native::...`
    }


def gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        **machine(torch=torch.__version__),
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--official", type=Path, nargs="*", default=[], help="folders with CUDA sources")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("wkv7_gpu.py needs a CUDA device, and torch sees none here: run it on a machine with a GPU")
    peers, missing = find_peers(options.official)
    exactness = errors_of_all(peers, missing)
    results = {
        "machine": gpu(),
        "missing": missing,
        "errors": exactness,
        "shapes": [measure(peers, shape, options.repeat) for shape in SHAPES],
    }
    text = json.dumps(results, indent=2) + "\n"
    print(text, end="")
    options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
