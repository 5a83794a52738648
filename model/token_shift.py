"""Token shift: every position sees the input of the position before it, across passes and past padding."""

import torch
from torch import Tensor


def token_shift(x: Tensor, previous: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the inputs one position earlier, and the input of the last real position.

    `x` is (B, T, C), `previous` (B, C) stands before the first position, `lengths` (B,) are the real positions of right
    padded rows (None: all T). Returns (B, T, C) and (B, C); a row of length 0 keeps `previous`.
    """
    extended = torch.cat([previous.to(x.dtype).unsqueeze(1), x], dim=1)
    return extended[:, :-1], last_position(extended, lengths, offset=0)


def last_position(x: Tensor, lengths: Tensor | None, offset: int = -1) -> Tensor:
    """Return x[:, lengths + offset], or the last position where there are no lengths: (B, T, C) -> (B, C)."""
    if lengths is None:
        return x[:, -1]
    return x[torch.arange(x.shape[0], device=x.device), lengths + offset]
