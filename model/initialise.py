"""Weights of a new model, by the rules of the official training code.

Source: RWKV-LM, RWKV-v7/train_temp/src/model.py, constructors and then `generate_init_weight`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from model.shapes import ModelShape


def random_state_dict(shape: ModelShape, seed: int) -> dict[str, Tensor]:
    """Return float32 tensors under the official names, a function of shape and seed only."""
    with _one_thread():
        return _state_dict(shape, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Orthogonal matrices have other last bits with other numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _state_dict(shape: ModelShape, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"emb.weight": _uniform((shape.vocab_size, shape.n_embd), 1e-4, generator)}
    for layer in range(shape.n_layer):
        for norm in ("ln0", "ln1", "ln2") if layer == 0 else ("ln1", "ln2"):
            tensors |= _norm(f"blocks.{layer}.{norm}", shape.n_embd)
        tensors |= {f"blocks.{layer}.att.{key}": x for key, x in _attention(shape, layer, generator).items()}
        tensors |= {f"blocks.{layer}.ffn.{key}": x for key, x in _ffn(shape, layer, generator).items()}
    tensors |= _norm("ln_out", shape.n_embd)
    gain = 0.5 * math.sqrt(max(1.0, shape.vocab_size / shape.n_embd))
    return tensors | {"head.weight": _orthogonal(shape.vocab_size, shape.n_embd, gain, generator)}


def _attention(shape: ModelShape, layer: int, generator: torch.Generator) -> dict[str, Tensor]:
    C, N = shape.n_embd, shape.head_size
    depth = layer / max(1, shape.n_layer - 1)  # 0 in the first layer, 1 in the last
    remaining = 1.0 - layer / shape.n_layer  # 1 in the first layer, almost 0 in the last
    channel = torch.arange(C)
    linear = channel / (C - 1) - 0.5
    zigzag = (channel % N - (N - 1) / 2) / ((N - 1) / 2)
    zigzag = zigzag * zigzag.abs()
    decay = -6.0 + 6.0 * (channel / (C - 1)) ** (1.0 + depth**0.3)
    exponents = {"x_r": 0.2, "x_w": 0.9, "x_k": 0.7, "x_v": 0.7, "x_a": 0.9, "x_g": 0.2}
    vectors = {name: 1.0 - (channel / C) ** (exponent * remaining) for name, exponent in exponents.items()}
    vectors |= {
        "w0": decay + 0.5 + zigzag * 2.5,
        "a0": -0.19 + zigzag * 0.3 + linear * 0.4,
        "k_k": 0.71 - linear * 0.1,
        "k_a": torch.full((C,), 1.02),
    }
    ranks = {"w": shape.decay_rank, "a": shape.rate_rank, "g": shape.gate_rank}
    if shape.has_value_residual(layer):
        vectors["v0"] = 0.73 - linear * 0.4
        ranks["v"] = shape.value_rank
    tensors = {name: vector.view(1, 1, C) for name, vector in vectors.items()}
    for name, rank in ranks.items():
        tensors[f"{name}1"] = torch.zeros(C, rank)
        tensors[f"{name}2"] = _orthogonal(rank, C, 0.1 * math.sqrt(max(1.0, rank / C)), generator)
    return tensors | {
        "r_k": torch.full((shape.n_head, N), -0.04),
        "receptance.weight": _orthogonal(C, C, 1.0, generator),
        "key.weight": _orthogonal(C, C, 0.1, generator),
        "value.weight": _orthogonal(C, C, 1.0, generator),
        "output.weight": torch.zeros(C, C),
        "ln_x.weight": torch.full((C,), ((1 + layer) / shape.n_layer) ** 0.7),
        "ln_x.bias": torch.zeros(C),
    }


def _ffn(shape: ModelShape, layer: int, generator: torch.Generator) -> dict[str, Tensor]:
    C = shape.n_embd
    remaining = 1.0 - layer / shape.n_layer
    return {
        "x_k": (1.0 - (torch.arange(C) / C) ** remaining**4).view(1, 1, C),
        "key.weight": _orthogonal(shape.ffn_size, C, 1.0, generator),
        "value.weight": torch.zeros(C, shape.ffn_size),
    }


def _norm(name: str, size: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}


def _uniform(size: tuple[int, int], limit: float, generator: torch.Generator) -> Tensor:
    return torch.empty(size).uniform_(-limit, limit, generator=generator)


def _orthogonal(rows: int, columns: int, gain: float, generator: torch.Generator) -> Tensor:
    return torch.nn.init.orthogonal_(torch.empty(rows, columns), gain=gain, generator=generator)
