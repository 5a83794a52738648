"""Equal bits from equal jobs: how torch is set for that."""

from __future__ import annotations

import torch


def be_reproducible() -> None:
    """Has torch compute the same bits again, or refuse."""
    # use_deterministic_algorithms does the same, and imports torch's compiler
    torch.set_deterministic_debug_mode("error")
    # or it would fill what is about to be written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
