"""AdamW as torch has it, without what it wraps around its methods for torch.compile.

Each of these wrappers imports the compiler at its first call, which takes seconds of every process that trains;
nothing here is compiled. Taking them off changes no number: they are for graphs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW with one pass over each weight ("fused"), on the CPU too; it imports no compiler."""

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas, fused=True)

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
