"""RWKV-7 with Future-Seed: the network, its WKV-7 kernels, checkpoints and tokenizers.

Computes, and knows nothing of rounds, tasks, jobs or training loops. Importing this package, its errors,
settings, shapes or tokenizers does not import torch; names that need torch are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from model.errors import CheckpointError, KernelError, ModelError, SettingsError, ShapeError, TokenizerError
from model.settings import FutureSeedSettings
from model.shapes import ModelShape
from model.tokenizers import Bytes, Tokenizer, World, get_tokenizer

if TYPE_CHECKING:
    from model.future_seed import FutureSeed
    from model.initialise import random_state_dict
    from model.kernels import available_backends, default_backend, wkv7
    from model.rwkv7 import RWKV7, load
    from model.state import LayerState, State

_NEED_TORCH = {
    "FutureSeed": "model.future_seed",
    "LayerState": "model.state",
    "RWKV7": "model.rwkv7",
    "State": "model.state",
    "available_backends": "model.kernels",
    "default_backend": "model.kernels",
    "load": "model.rwkv7",
    "random_state_dict": "model.initialise",
    "wkv7": "model.kernels",
}

__all__ = [
    "RWKV7",
    "Bytes",
    "CheckpointError",
    "FutureSeed",
    "FutureSeedSettings",
    "KernelError",
    "LayerState",
    "ModelError",
    "ModelShape",
    "SettingsError",
    "ShapeError",
    "State",
    "Tokenizer",
    "TokenizerError",
    "World",
    "available_backends",
    "default_backend",
    "get_tokenizer",
    "load",
    "random_state_dict",
    "wkv7",
]


def __getattr__(name: str) -> object:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_NEED_TORCH[name]), name)
    globals()[name] = value
    return value
