"""Models and inputs for the tests of this folder: small, and alive in every tensor."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from model.kernels import wkv7
from model.rwkv7 import RWKV7
from model.settings import FutureSeedSettings
from model.shapes import ModelShape

# Tensors that the rules of initialisation leave near zero would hide mistakes: here everything has an effect.
_SPREAD = {
    "emb.weight": 1.0,
    "ln": 0.2,
    "w0": 1.5,
    "v0": 1.0,
    "a0": 1.0,
    "x_": 0.3,
    "k_k": 0.3,
    "k_a": 0.3,
    "r_k": 0.3,
}
_CENTRE = {"ln1.weight": 1.0, "ln2.weight": 1.0, "ln0.weight": 1.0, "ln_x.weight": 1.0, "ln_out.weight": 1.0}
_CENTRE |= {"x_": 0.5, "k_k": 0.8, "k_a": 0.9}


def live_state_dict(shape: ModelShape, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, size in shape.tensors().items():
        spread = next((spread for part, spread in _SPREAD.items() if part in name), 1.2 / max(size) ** 0.5)
        centre = next((centre for part, centre in _CENTRE.items() if part in name), 0.0)
        tensors[name] = centre + spread * torch.randn(size, generator=generator)
    return tensors


def live_model(
    layers: int = 3, dim: int = 64, vocab: int = 50, head_size: int = 32, dtype: torch.dtype = torch.float32
) -> RWKV7:
    shape = ModelShape.random(layers, dim, vocab, head_size)
    return RWKV7.from_state_dict(live_state_dict(shape), dtype=dtype)


def random_tokens(batch: int, length: int, vocab: int = 50, seed: int = 1) -> Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def wkv_inputs(
    B: int, T: int, H: int, N: int, *, kind: str = "random", initial_state: bool = True, seed: int = 0
) -> list[Tensor]:
    """r w k v a b [s0] in float64, as RWKV-7 makes them: a = -kk, b = kk * rate with a unit vector kk."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    r, k, v, rate = normal(B, T, H, N), normal(B, T, H, N), normal(B, T, H, N), normal(B, T, H, N).sigmoid()
    w = -0.6065306597 * normal(B, T, H, N).sigmoid()
    kk = F.normalize(normal(B, T, H, N), dim=-1)
    if kind == "repeated keys":
        kk = F.normalize(normal(B, 1, H, N) + 0.3 * normal(B, T, H, N), dim=-1)
        k, rate, w = kk.clone(), torch.full_like(rate, 0.99), torch.full_like(w, -1e-3)
    constant_decay = {"slow decay": -1e-3, "strongest decay": -0.6065306597, "beyond any model": -20.0}
    if kind in constant_decay:
        w = torch.full_like(w, constant_decay[kind])
    return [r, w, 0.5 * k, v, -kk, kk * rate] + ([normal(B, H, N, N)] if initial_state else [])


def in_two_parts(B: int, steps: tuple[int, int], H: int, N: int) -> list[Tensor]:
    """The same for sequences in two parts, with a state."""
    first, second = (wkv_inputs(B, T, H, N, seed=part) for part, T in enumerate(steps))
    pairs = zip(first[:6], second[:6], strict=True)
    return [*(torch.cat([x.flatten(0, 1), y.flatten(0, 1)]).unsqueeze(0) for x, y in pairs), first[6]]


def two_passes(inputs: list[Tensor], steps: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """y and the state between the parts, by the recurrence over one and then the other."""
    *tokens, s0 = inputs
    border, shape = len(s0) * steps[0], tokens[0].shape[2:]
    y, between = wkv7(*(x[0, :border].view(-1, steps[0], *shape) for x in tokens), s0, backend="reference")
    second = [x[0, border:].view(-1, steps[1], *shape) for x in tokens]
    rest, _ = wkv7(*second, between, backend="reference")
    return torch.cat([y.flatten(0, 1), rest.flatten(0, 1)]).unsqueeze(0), between


def gradients(inputs: list[Tensor], outputs: tuple[Tensor, Tensor], of: str) -> list[Tensor]:
    """Of a loss that depends on both outputs, on y or on the state; zero where it does not depend on an input."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in outputs]
    used = {"both": [0, 1], "y": [0], "state": [1]}[of]
    chosen, given = [outputs[n] for n in used], [weights[n] for n in used]
    return list(torch.autograd.grad(chosen, inputs, given, materialize_grads=True, allow_unused=True))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute error over largest absolute value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


numbers = st.floats(-4, 4) | st.sampled_from([0.0, -0.0, 1.0, 0.4])
rates = st.sampled_from([0.0, 1e-4, 5e-4])


@st.composite
def settings_of(draw: st.DrawFn) -> FutureSeedSettings:
    values: dict[str, Any] = {
        "gate": draw(st.sampled_from(["scalar", "head", "input"])),
        "layer_start": draw(st.integers(0, 6)),
        "alpha_init": draw(numbers),
        "alpha_lr": draw(rates),
        "norm": draw(st.booleans()),
        "detach": draw(st.booleans()),
        "clip": draw(st.sampled_from([0.0, 0.7, 1.0])),
        "seed_scale": draw(numbers),
        "schedule": draw(st.sampled_from(["none", "linear", "cosine"])),
    }
    if values["gate"] == "head":
        values |= {"alpha_head_init": draw(st.none() | numbers), "alpha_head_lr": draw(st.none() | rates)}
    if values["gate"] == "input":
        values |= {"gate_w_lr": draw(st.none() | rates), "gate_b_lr": draw(st.none() | rates)}
    if values["schedule"] != "none":
        values |= {"schedule_min": draw(numbers), "schedule_max": draw(numbers)}
    return FutureSeedSettings(**values)
