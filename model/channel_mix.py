"""The feed-forward part of RWKV-7 ("channel mixing"): token shift, then a squared-ReLU network."""

import torch
from torch import Tensor, nn

from model.elementwise import mix, squared_relu
from model.shapes import ModelShape
from model.token_shift import Padding, token_shift


class ChannelMix(nn.Module):
    """FFN of one block; parameters carry the official names (`blocks.N.ffn.*`)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.x_k = nn.Parameter(torch.empty(1, 1, shape.n_embd))
        self.key = nn.Linear(shape.n_embd, shape.ffn_size, bias=False)
        self.value = nn.Linear(shape.ffn_size, shape.n_embd, bias=False)

    def forward(self, x: Tensor, shift: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, C) and the new shift (B, C)."""
        shifted, new_shift = token_shift(x, shift, padding)
        (x_k,) = mix(x, shifted, self.x_k)
        return self.value(squared_relu(self.key(x_k))), new_shift
