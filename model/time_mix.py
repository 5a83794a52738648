"""The attention of RWKV-7 ("time mixing"): a matrix-valued memory, decayed, corrected, written at each token."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.elementwise import mix, unit_vectors
from model.kernels import wkv7
from model.parts import Parts
from model.shapes import ModelShape

_FASTEST_DECAY = -math.exp(-0.5)  # the log-decay is this times a sigmoid
_HEAD_NORM_EPS = 64e-5  # official for every head size


class TimeMix(nn.Module):
    """Attention of one block; parameters carry the official names (`blocks.N.att.*`)."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        C, H, N = shape.n_embd, shape.n_head, shape.head_size
        self.n_head, self.head_size = H, N
        self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g = (_vector(C) for _ in range(6))
        self.w0, self.w1, self.w2 = _vector(C), *_low_rank(C, shape.decay_rank)
        self.a0, self.a1, self.a2 = _vector(C), *_low_rank(C, shape.rate_rank)
        if shape.has_value_residual(layer):
            self.v0, self.v1, self.v2 = _vector(C), *_low_rank(C, shape.value_rank)
        if layer == 0 and shape.block0_value_residual:  # in official files, but nothing uses them
            for unused in (self.v0, self.v1, self.v2):
                unused.requires_grad_(False)
        self.g1, self.g2 = _low_rank(C, shape.gate_rank)
        self.k_k, self.k_a = _vector(C), _vector(C)
        self.r_k = nn.Parameter(torch.empty(H, N))
        self.receptance, self.key, self.value, self.output = (nn.Linear(C, C, bias=False) for _ in range(4))
        self.ln_x = HeadNorm(C)

    def forward(
        self, x: Tensor, before: Tensor, wkv: Tensor, v_first: Tensor | None, parts: Parts
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix (B, T, C), or as its parts have it, over time.

        `before` (B, C) is the input before the first token, `wkv` (B, H, N, N) the state. `v_first` are the values of
        block 0, as large as the input, None in block 0. Returns the output, wkv after the first part and the values
        of block 0.
        """
        x_r, x_w, x_k, x_v, x_a, x_g = mix(
            x, before, parts, self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g
        )
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, torch.sigmoid(_affine(x_v @ self.v1, self.v2, self.v0)))
        w = self._log_decay(x_w)
        rate = torch.sigmoid(_affine(x_a @ self.a1, self.a2, self.a0))
        gate = torch.sigmoid(x_g @ self.g1) @ self.g2
        if parts.real is not None:  # padding neither decays nor, as k = 0 makes a and b zero too, writes
            w, k = w * parts.real, k * parts.real
        removal = unit_vectors(self._heads(k * self.k_k))
        k = self._heads(k * torch.addcmul(1.0 - self.k_a, rate, self.k_a))
        r, v = self._heads(r), self._heads(v)
        a, b = -removal, removal * self._heads(rate)
        y, new_wkv = wkv7(r, self._heads(w), k, v, a, b, wkv, steps=parts.steps)
        bonus = (r * k * self.r_k).sum(dim=-1, keepdim=True) * v
        y = self.ln_x(y.to(x.dtype)) + bonus.view_as(x)
        return self.output(y * gate), new_wkv, v_first

    def _log_decay(self, x: Tensor) -> Tensor:
        logit = self.w0 + torch.tanh(x @ self.w1) @ self.w2
        return _FASTEST_DECAY * torch.sigmoid(logit.to(torch.promote_types(logit.dtype, torch.float32)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_head, self.head_size)


class HeadNorm(nn.Module):
    """Normalises each head by itself, with a scale and an offset for every channel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(size)), nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, N) -> (B, T, C); on the CPU much faster than the group norm that it is."""
        return torch.addcmul(
            self.bias, F.layer_norm(x, x.shape[-1:], eps=_HEAD_NORM_EPS).flatten(2), self.weight
        )


def _vector(size: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, size))


def _low_rank(size: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.empty(size, rank)), nn.Parameter(torch.empty(rank, size))


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight.mT, bias.flatten())
