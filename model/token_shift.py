"""Token shift: every position sees the input of the position before it, across passes and past padding."""

import torch
from torch import Tensor


class Padding:
    """Which positions of a right padded batch are real."""

    def __init__(self, lengths: Tensor, T: int) -> None:
        self.lengths = lengths
        """(B,) number of real positions of each row."""
        self.rows = torch.arange(lengths.shape[0], device=lengths.device)
        self.real = (torch.arange(T, device=lengths.device) < lengths.unsqueeze(-1)).unsqueeze(-1)
        """(B, T, 1), False at padding."""


def token_shift(x: Tensor, previous: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
    """Return the inputs one position earlier, and the input of the last real position.

    `x` is (B, T, C), `previous` (B, C) stands before the first position. Returns (B, T, C) and (B, C); a row
    without a real position keeps `previous`.
    """
    extended = torch.cat([previous.to(x.dtype).unsqueeze(1), x], dim=1)
    last = extended[:, -1] if padding is None else extended[padding.rows, padding.lengths]
    return extended[:, :-1], last


def last_position(x: Tensor, padding: Padding | None) -> Tensor:
    """Return what stands at the last real position, (B, T, C) -> (B, C); any position for a row without one."""
    return x[:, -1] if padding is None else x[padding.rows, padding.lengths - 1]
