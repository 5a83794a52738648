"""The recurrence as its definition spells it, step by step, in any dtype: slow, the oracle of the others."""

import torch
from torch import Tensor


def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `S_t = S_{t-1} diag(exp(w_t)) + (S_{t-1} a_t) b_t^T + v_t k_t^T` and `y_t = S_t r_t`."""
    S = s0
    outputs = []
    # unbind, because x[:, t] under autograd costs a zero-filled copy of x per step
    for r_t, decay_t, k_t, v_t, a_t, b_t in zip(
        *(x.unbind(1) for x in (r, w.exp(), k, v, a, b)), strict=True
    ):
        S_a = S @ a_t.unsqueeze(-1)
        S = S * decay_t.unsqueeze(-2) + S_a * b_t.unsqueeze(-2) + v_t.unsqueeze(-1) * k_t.unsqueeze(-2)
        outputs.append((S @ r_t.unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs, dim=1), S
