"""The attention of RWKV-7 ("time mixing"): a matrix-valued memory that is decayed, corrected and written at each token."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels import wkv7
from model.shapes import ModelShape
from model.token_shift import token_shift

_FASTEST_DECAY = -math.exp(-0.5)  # the log-decay is this times a sigmoid
_GROUP_NORM_EPS = 64e-5  # official for every head size


class TimeMix(nn.Module):
    """Attention of one block; parameters carry the official names (`blocks.N.att.*`)."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        C, H, N = shape.n_embd, shape.n_head, shape.head_size
        self.n_head, self.head_size, self.layer = H, N, layer
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
        self.ln_x = nn.GroupNorm(H, C, eps=_GROUP_NORM_EPS)

    def forward(
        self,
        x: Tensor,
        shift: Tensor,
        wkv: Tensor,
        v_first: Tensor | None,
        lengths: Tensor | None,
        real: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mix (B, T, C) over time, starting from the state `shift` (B, C) and `wkv` (B, H, N, N).

        `v_first` are the values of block 0 (None in block 0). `real` (B, T, 1) is 0 at padding, `lengths` the same as
        counts. Returns the output, the new shift, the new wkv and the values of block 0.
        """
        shifted, new_shift = token_shift(x, shift, lengths)
        r = self.receptance(torch.lerp(x, shifted, self.x_r))
        k = self.key(torch.lerp(x, shifted, self.x_k))
        x_v = torch.lerp(x, shifted, self.x_v)
        v = self.value(x_v)
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, torch.sigmoid(_low_rank_product(x_v, self.v1, self.v2, self.v0)))
        w = self._log_decay(torch.lerp(x, shifted, self.x_w))
        rate = torch.sigmoid(_low_rank_product(torch.lerp(x, shifted, self.x_a), self.a1, self.a2, self.a0))
        gate = torch.sigmoid(torch.lerp(x, shifted, self.x_g) @ self.g1) @ self.g2
        if (
            real is not None
        ):  # no decay, and neither write nor correction at padding: k = 0 makes a, b zero too
            w, k = w * real, k * real

        removal = F.normalize(self._heads(k * self.k_k), dim=-1)
        k = k * torch.addcmul(1.0 - self.k_a, rate, self.k_a)
        heads_r, heads_k, heads_v = self._heads(r), self._heads(k), self._heads(v)
        y, new_wkv = wkv7(
            heads_r, self._heads(w), heads_k, heads_v, -removal, removal * self._heads(rate), wkv
        )
        y = self.ln_x(y.to(x.dtype).flatten(0, 1).flatten(1)).view_as(x)
        bonus = (heads_r * heads_k * self.r_k).sum(dim=-1, keepdim=True) * heads_v
        return self.output((y + bonus.flatten(2)) * gate), new_shift, new_wkv, v_first

    def _log_decay(self, x: Tensor) -> Tensor:
        low_rank = torch.tanh(x @ self.w1) @ self.w2
        return _FASTEST_DECAY * torch.sigmoid(at_least_float32(self.w0 + low_rank))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_head, self.head_size))


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or as it is if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _vector(size: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, size))


def _low_rank(size: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.empty(size, rank)), nn.Parameter(torch.empty(rank, size))


def _low_rank_product(x: Tensor, down: Tensor, up: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x @ down, up.mT, bias.flatten())
