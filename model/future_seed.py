"""Future-Seed: in the prompt pass, the final state of each layer becomes the initial state of the next one.

base  = sT[i-1]                (detached if detach; divided by max(rms, 1e-6) per head if norm)
gate  = sigmoid(alpha[i])                                              scalar
      = sigmoid(alpha[i]) * sigmoid(alpha_head[i, h])                  head
      = sigmoid(alpha[i] + <x_last, w[i]> / sqrt(C) + b[i])            input
s0[i] = clamp(base * gate * seed_scale * schedule(i), -clip, clip)     (no clamp if clip is 0)
"""

import math
from typing import TypedDict

import torch
from torch import Tensor, nn

from model.settings import FutureSeedSettings
from model.shapes import ModelShape

_RMS_FLOOR = 1e-6


class ParameterGroup(TypedDict):
    """One group as the optimizers of torch take it."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


class FutureSeed(nn.Module):
    """The gates of one Future-Seed variant, for one model; those with learning rate 0 are fixed."""

    alpha: nn.Parameter
    """(L,)"""
    alpha_head: nn.Parameter
    """(L, H); gate `head` only."""
    w: nn.Parameter
    """(L, C); gate `input` only."""
    b: nn.Parameter
    """(L,); gate `input` only."""

    def __init__(self, settings: FutureSeedSettings, shape: ModelShape) -> None:
        super().__init__()
        self.settings = settings
        self.n_layer = L = shape.n_layer
        self.layers = settings.layers(L)
        """The layers that receive a seed."""
        self._rates: dict[str, float] = {}
        self._add("alpha", torch.full((L,), settings.alpha_init), settings.alpha_lr)
        if settings.gate == "head":
            init = _default(settings.alpha_head_init, settings.alpha_init)
            self._add("alpha_head", torch.full((L, shape.n_head), init), settings.alpha_head_lr)
        if settings.gate == "input":
            self._add("w", torch.zeros(L, shape.n_embd), settings.gate_w_lr)
            self._add("b", torch.zeros(L), settings.gate_b_lr)

    def _add(self, name: str, value: Tensor, lr: float | None) -> None:
        self._rates[name] = _default(lr, self.settings.alpha_lr)
        self.register_parameter(name, nn.Parameter(value, requires_grad=self._rates[name] > 0))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one optimizer group for each kind of trained parameter, none for the fixed ones."""
        trained = {name: lr for name, lr in self._rates.items() if lr > 0}
        return [
            {"params": [self.get_parameter(name)], "lr": lr, "weight_decay": 0.0}
            for name, lr in trained.items()
        ]

    def initial_state(self, layer: int, previous_sT: Tensor, x_last: Tensor) -> Tensor:
        """Return the seed of a layer, (B, H, N, N).

        `previous_sT` (B, H, N, N) is the final state of the layer before, `x_last` (B, C) the residual stream
        that enters this layer at the last real prompt token. Raises `SettingsError` for a layer that receives
        no seed.
        """
        settings = self.settings
        base = previous_sT.detach() if settings.detach else previous_sT
        if settings.norm:
            mean_square = base.square().mean(dim=(-2, -1), keepdim=True)
            # the floor is below the root: no infinite gradient at 0
            base = base / mean_square.clamp_min(_RMS_FLOOR**2).sqrt()
        seed = base * (self._gate(layer, x_last) * settings.scale(layer, self.n_layer))
        return seed.clamp(-settings.clip, settings.clip) if settings.clip > 0 else seed

    def _gate(self, layer: int, x_last: Tensor) -> Tensor:
        """Return the gate, shaped to multiply (B, H, N, N)."""
        alpha = self.alpha[layer]
        if self.settings.gate == "head":
            return (torch.sigmoid(alpha) * torch.sigmoid(self.alpha_head[layer])).view(1, -1, 1, 1)
        if self.settings.gate == "input":
            with torch.autocast(x_last.device.type, enabled=False):  # as exact as the other gates
                score = x_last.to(alpha.dtype) @ self.w[layer] / math.sqrt(x_last.shape[-1])
            return torch.sigmoid(alpha + score + self.b[layer]).view(-1, 1, 1, 1)
        return torch.sigmoid(alpha)


def _default(value: float | None, default: float) -> float:
    return default if value is None else value
