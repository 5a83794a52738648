"""The feed-forward part of RWKV-7 ("channel mixing"): token shift, then a squared-ReLU network."""

import torch
from torch import Tensor, nn

from model.elementwise import mix, squared_relu
from model.parts import Parts
from model.shapes import ModelShape


class ChannelMix(nn.Module):
    """FFN of one block; parameters carry the official names (`blocks.N.ffn.*`)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.x_k = nn.Parameter(torch.empty(1, 1, shape.n_embd))
        self.key = nn.Linear(shape.n_embd, shape.ffn_size, bias=False)
        self.value = nn.Linear(shape.ffn_size, shape.n_embd, bias=False)

    def forward(self, x: Tensor, before: Tensor, parts: Parts) -> Tensor:
        """Return the output for (B, T, C), or as its parts have it; `before` (B, C) is the input before the first."""
        (x_k,) = mix(x, before, parts, self.x_k)
        output: Tensor = self.value(squared_relu(self.key(x_k)))
        return output
