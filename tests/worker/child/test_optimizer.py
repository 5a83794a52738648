"""The optimizer: torch's, number for number, without torch's compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from worker.child.optimizer import AdamW


def trained(kind: Callable[..., torch.optim.AdamW]) -> Iterator[list[torch.Tensor]]:
    """Weights after each of some steps, in two groups of which one is added later; in the middle it starts anew
    from its state, as a run does that goes on from a snapshot.
    """
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(5, 3, generator=generator).requires_grad_() for _ in range(2)]
    rates: list[dict[str, Any]] = [{"lr": 1e-2, "weight_decay": 0.1}, {"lr": 1e-1, "weight_decay": 0.0}]
    groups = [{"params": [one], **rate} for one, rate in zip(weights, rates, strict=True)]

    def made() -> torch.optim.AdamW:
        optimizer = kind(groups[:1], betas=(0.9, 0.99))
        optimizer.add_param_group(dict(groups[1]))
        return optimizer

    optimizer = made()
    for step in range(6):
        optimizer.zero_grad(set_to_none=True)
        assert all(one.grad is None for one in weights)
        sum((one.sin() * (step + 1)).sum() for one in weights).backward()
        optimizer.step()
        yield [one.detach().clone() for one in weights]
        if step == 2:
            state = optimizer.state_dict()
            optimizer = made()
            optimizer.load_state_dict(state)


def test_adamw__is_the_fused_one_of_torch_bit_for_bit() -> None:
    expected = list(trained(partial(torch.optim.AdamW, fused=True)))
    for found, wanted in zip(trained(AdamW), expected, strict=True):
        assert all(map(torch.equal, found, wanted))
    assert not torch.equal(expected[0][0], expected[-1][0])
