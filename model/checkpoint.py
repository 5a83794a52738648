"""RWKV-7 checkpoint files, safetensors or official .pth: sizes, tensors, digest. Code in them never runs."""

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
_ZIP_START = b"PK"
_PICKLE_START = b"\x80"  # a bare pickle, as old versions of torch wrote it


def inspect(path: str | Path) -> ModelShape:
    """Return the sizes of the model in a file, without reading its weights.

    Raises `CheckpointError` if the file cannot be read or is no RWKV-7 checkpoint.
    """
    path = Path(path)
    with _explained(path):
        start = _first_bytes(path)
        return _check(_load_torch(path)) if _is_torch(start) else _inspect_safetensors(path)


def read(path: str | Path) -> dict[str, "Tensor"]:
    """Return the tensors of a file under their official names, on the CPU, in the file's own dtype.

    Raises `CheckpointError` if the file cannot be read or is no RWKV-7 checkpoint.
    """
    from safetensors.torch import load_file

    path = Path(path)
    with _explained(path):
        tensors = _load_torch(path) if _is_torch(_first_bytes(path)) else load_file(path)
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
        raise CheckpointError(f"checkpoint {path} is a directory: name the file in it") from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged, cut short, or neither safetensors nor .pth: {error}"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise CheckpointError("the file is empty: download it again")
    return start


def _is_torch(start: bytes) -> bool:
    return start.startswith((_ZIP_START, _PICKLE_START))


def _load_torch(path: Path) -> dict[str, "Tensor"]:
    import torch

    zipped = _first_bytes(path) == _ZIP_START  # only these can be mapped into memory
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused_pickle(str(error))) from error
    except Exception as error:  # the reader raises a dozen types on damaged files
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"it is damaged, cut short, or no PyTorch file: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"it holds a {type(content).__name__}: expected a dict of tensors")
    for key, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{key!r} in it is a {type(value).__name__}: expected only tensors")
    return content


def _refused_pickle(message: str) -> str:
    code = re.search(r"GLOBAL (\S+)", message)
    if code:
        return f"it asks to run {code[1]} when loaded, which was refused: do not trust this file"
    return "it is a damaged pickle or no checkpoint, and nothing in it was run: download it again"


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
                f"tensor {key!r} is {dtype}: expected float32, float16 or bfloat16; "
                "use a checkpoint that is not quantised"
            )
