"""The recurrent state of RWKV-7: what one layer, and all layers, carry from one token to the next."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.shapes import ModelShape


class LayerState(NamedTuple):
    """What one layer remembers after its last real token."""

    att_shift: Tensor
    """Input of the attention's token shift, (B, C)."""
    wkv: Tensor
    """Matrix-valued memory, (B, H, N, N) indexed [value, key]; float32 (float64 in a float64 model)."""
    ffn_shift: Tensor
    """Input of the FFN's token shift, (B, C)."""


State = tuple[LayerState, ...]


def zero_state(shape: ModelShape, batch: int, dtype: torch.dtype, device: torch.device) -> State:
    """Return the state before any token, for a batch; shifts in `dtype`, memory in at least float32."""
    wkv_dtype = torch.promote_types(dtype, torch.float32)
    shift = torch.zeros(batch, shape.n_embd, dtype=dtype, device=device)
    wkv = torch.zeros(batch, shape.n_head, shape.head_size, shape.head_size, dtype=wkv_dtype, device=device)
    return (LayerState(shift, wkv, shift),) * shape.n_layer
