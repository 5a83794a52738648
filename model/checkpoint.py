"""RWKV-7 checkpoint files, `.safetensors` or official `.pth`: look at sizes, read tensors, digest. Never runs code."""

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from model.errors import CheckpointError
from model.shapes import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = ("F32", "F16", "BF16", "float32", "float16", "bfloat16")
_TORCH_STARTS = (b"PK", b"\x80")  # a zip archive, or a bare pickle as old versions wrote it


def inspect(path: str | Path) -> ModelShape:
    """Return the sizes of the model in a file, without reading its weights.

    Raises `CheckpointError` if the file cannot be read or is no RWKV-7 checkpoint.
    """
    path = Path(path)
    with _explained(path):
        if _is_torch(path):
            return _check(_load_torch(path))
        return _inspect_safetensors(path)


def read(path: str | Path) -> dict[str, "Tensor"]:
    """Return the tensors of a file under their official names, on the CPU, in the file's own dtype.

    Raises `CheckpointError` if the file cannot be read or is no RWKV-7 checkpoint.
    """
    from safetensors.torch import load_file

    path = Path(path)
    with _explained(path):
        tensors = _load_torch(path) if _is_torch(path) else load_file(path)
        _check(tensors)
    return tensors


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises `CheckpointError` if it cannot be read."""
    path = Path(path)
    with _explained(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} does not exist: check the path") from error
    except IsADirectoryError as error:
        raise CheckpointError(
            f"checkpoint {path} is a directory: name the .safetensors or .pth file in it"
        ) from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged, cut short, or neither safetensors nor .pth ({error}): download it again"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error


def _is_torch(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise CheckpointError("the file is empty: download it again")
    return start.startswith(_TORCH_STARTS)


def _load_torch(path: Path) -> dict[str, "Tensor"]:
    import torch

    zipped = path.open("rb").read(2) == b"PK"
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused_pickle(str(error))) from error
    except Exception as error:  # the reader raises a dozen types on damaged files
        raise CheckpointError(
            f"damaged, cut short, or no PyTorch file ({_first_line(error)}): download it again"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise CheckpointError(f"holds {type(content).__name__} of other things: expected a dict of tensors")
    return content


def _refused_pickle(message: str) -> str:
    code = re.search(r"GLOBAL (\S+)", message)
    if code:
        return f"asks to run {code[1]} when loaded, which was refused: expected tensors only; do not trust this file"
    return "is a damaged pickle or no checkpoint (nothing in it was run): download it again"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _inspect_safetensors(path: Path) -> ModelShape:
    with safe_open(path, framework="numpy") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        _check_dtypes({key: entry.get_dtype() for key, entry in slices.items()})
        return ModelShape.infer({key: tuple(entry.get_shape()) for key, entry in slices.items()})


def _check(tensors: Mapping[str, "Tensor"]) -> ModelShape:
    _check_dtypes({key: str(tensor.dtype).removeprefix("torch.") for key, tensor in tensors.items()})
    return ModelShape.infer({key: tuple(tensor.shape) for key, tensor in tensors.items()})


def _check_dtypes(dtypes: Mapping[str, str]) -> None:
    for key, dtype in dtypes.items():
        if dtype not in _FLOATS:
            raise CheckpointError(
                f"tensor {key!r} is {dtype}: expected float32, float16 or bfloat16; use a checkpoint that is not quantised"
            )
