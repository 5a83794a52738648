"""The `rwkv` package, the official inference code, as the oracle of this folder (CPU, float32, one sequence)."""

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


def official_model(tensors: dict[str, Tensor], folder: Path) -> Any:
    """The package's model of a state dict, which it reads from an official .pth file."""
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_CUDA_ON": "0"}  # it looks at them on import
    pytest.importorskip("rwkv", reason="the rwkv package is not installed")
    torch.save(tensors, folder / "official.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses torch.jit, which torch deprecates
        from rwkv.model import RWKV

        return RWKV(model=str(folder / "official"), strategy="cpu fp32")


def official_forward(
    model: Any, tokens: Tensor, seeds: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Logits (T, V) and the final state, three tensors a layer, from memories `seeds` (H, N, N) of each layer."""
    state = model.generate_zero_state()
    for layer, seed in enumerate(seeds or []):
        state[3 * layer + 1] = seed.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.forward(tokens.tolist(), state, full_output=True)
