"""Where the tokens of a batch stand: sequences in one part, or in two, the second going on where the first ends.

All but token shift and WKV treats token by token, whatever part it is of: two parts in one pass take half as many
operations as a pass for each.
"""

import torch
from torch import Tensor

from model.kernels import two_parts


class Parts:
    """B sequences, right padded.

    In one part of T tokens: tensors are (B, T, ...). In two, of T0 and T1: (1, B T0 + B T1, ...), the first part of
    every sequence, then the second of every one. Nothing goes on after the second, so its padding needs no mask.
    """

    def __init__(
        self, batch: int, T: int, lengths: Tensor | None, device: torch.device, following: int = 0
    ) -> None:
        """`lengths` (B,) counts the real tokens of each first part, None where all are; T1 is `following`, if any."""
        self.batch = batch
        self.steps = (T, following) if following else None
        """(T0, T1); None for sequences in one part."""
        self.real: Tensor | None = None
        """False at padding of the first part, shaped to multiply tensors; None where all is real."""
        self.begun: Tensor | None = None
        """(B, 1) False for sequences without a real token in the first part; None where there are none."""
        self._T, self._device = T, device
        self._lengths: Tensor | None = None  # on the CPU
        self._last: Tensor | None = None
        if lengths is None or bool((lengths == T).all()):
            return
        self._lengths = lengths = lengths.cpu()
        real = torch.arange(T) < lengths.unsqueeze(1)
        if following:
            real = torch.cat([real.flatten(), real.new_ones(batch * following)]).unsqueeze(0)
        self.real = real.unsqueeze(-1).to(device)
        self._last = (torch.arange(batch) * T + (lengths - 1).clamp_min(0)).to(device)
        if bool((lengths < 1).any()):
            self.begun = (lengths > 0).unsqueeze(1).to(device)

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Views of a contiguous tensor, (B, T, ...) for each part."""
        return two_parts.blocks(x, self.batch, self.steps)

    def last(self, x: Tensor, before: Tensor | float = 0.0) -> Tensor:
        """Return a copy of what stands at the last real token of each first part, (B, C); where none is, `before`."""
        if self._last is None:
            return self.blocks(x)[0][:, -1].clone()  # a view would keep all of x
        last = x.flatten(0, 1)[self._last]
        return last if self.begun is None else torch.where(self.begun, last, before)

    def add_to_last(self, x: Tensor, before: Tensor, what: Tensor) -> Tensor:
        """Add (B, C) in place to what `last` takes from `x`, and return `before` with what that gets."""
        if self._last is None:
            self.blocks(x)[0][:, -1] += what
            return before
        if self.begun is not None:
            before = torch.where(self.begun, before, before + what)
            what = what * self.begun
        x.flatten(0, 1).index_add_(0, self._last, what)
        return before

    def before_last(self, x: Tensor) -> Tensor:
        """Return what stands one token before `last`, (B, C); anything where there is none, see `or_else`."""
        if self._last is None:
            return self.blocks(x)[0][:, max(0, self._T - 2)]
        return x.flatten(0, 1)[(self._last - 1).clamp_min(0)]

    def or_else(self, before_last: Tensor, before: Tensor) -> Tensor:
        """Return (B, C) of `before_last`, and `before` where the first part has a single token."""
        if self._lengths is None:
            return before_last if self._T > 1 else before
        if not bool((self._lengths < 2).any()):
            return before_last
        return torch.where((self._lengths > 1).unsqueeze(1).to(self._device), before_last, before)

    def tail(self, x: Tensor) -> Tensor:
        """Return each first part's last real token and all of the second part, (B, 1 + T1, C)."""
        return torch.cat([self.last(x).unsqueeze(1), *self.blocks(x)[1:]], dim=1)
