"""RWKV-7 checkpoint files, safetensors or official .pth: sizes, tensors, digest. Code in them never runs."""

import hashlib
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from model.errors import CheckpointError
from model.shapes import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")
_ZIP_START = b"PK"
_PICKLE_START = b"\x80"  # a bare pickle, as old versions of torch wrote it
_PICKLES = 5  # that such a file begins with: magic number, version, machine, tensors, names of their storages

# Far beyond every model; they bound what a hostile file costs.
_MAX_TENSORS = 20_000
_MAX_NAME = 200
_MAX_INDEX = 2**24  # bytes of the pickle in an archive
_MAX_REASON = 300


def inspect(path: str | Path) -> ModelShape:
    """Return the sizes of the model in a file, without reading its weights.

    Raises `CheckpointError` if the file cannot be read or is no RWKV-7 checkpoint.
    """
    path = Path(path)
    with _explained(path):
        if _is_torch(_first_bytes(path)):
            return _load_torch(path)[0]
        return _inspect_safetensors(path)


def read(path: str | Path) -> dict[str, "Tensor"]:
    """Return the tensors of a file under their official names, on the CPU, in the file's own dtype.

    Raises `CheckpointError` if the file cannot be read or is no RWKV-7 checkpoint.
    """
    from safetensors.torch import load_file

    path = Path(path)
    with _explained(path):
        if _is_torch(_first_bytes(path)):
            return _load_torch(path)[1]
        _inspect_safetensors(path)
        return load_file(path)


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
            f"checkpoint {path} is damaged, cut short, or neither safetensors nor .pth: {_reason(error)}"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise CheckpointError("the file is empty: download it again")
    return start


def _is_torch(start: bytes) -> bool:
    if start[8:] == b"{":  # the length of a safetensors header, which may look like anything, and the header
        return False
    return start.startswith((_ZIP_START, _PICKLE_START))


def _load_torch(path: Path) -> tuple[ModelShape, dict[str, "Tensor"]]:
    import torch

    zipped = _first_bytes(path).startswith(_ZIP_START)  # only these can be mapped into memory
    try:
        _vet_archive(path) if zipped else _vet_old_file(path)
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused_pickle(str(error))) from error
    except Exception as error:  # the reader raises a dozen types on damaged files
        raise CheckpointError(f"it is damaged, cut short, or no PyTorch file: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"it holds a {type(content).__name__}: expected a dict of tensors")
    _check_names(content)
    for key, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{key!r} in it is a {type(value).__name__}: expected only tensors")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise CheckpointError(
                f"tensor {key!r} is {value.layout} on {value.device}: expected plain values"
            )
    _check_size(content.values(), path.stat().st_size)
    return _check(content), content


def _vet_archive(path: Path) -> None:
    """Raises CheckpointError for an archive that unfolds to more than the file has."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError("it is a compressed archive, which torch.save never writes: save it again")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise CheckpointError("its parts claim to be larger than the file: download it again")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                if entry.file_size > _MAX_INDEX:
                    raise CheckpointError(f"its index has {entry.file_size:,} bytes: expected a state dict")
                _vet_pickle(io.BytesIO(archive.read(entry)))


def _vet_old_file(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(_PICKLES):
            _vet_pickle(file)


def _vet_pickle(file: IO[bytes]) -> None:
    """Raises CheckpointError for tuples of tuples that are used again and again: hashing them takes for ever."""
    tuples, previous = set(), ""
    for code, argument in _operations(file):
        if code in ("BINPUT", "LONG_BINPUT") and previous in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            tuples.add(argument)
        elif code in ("BINGET", "LONG_BINGET") and argument in tuples:
            raise CheckpointError(
                "its index uses a tuple twice, which torch.save never does: do not trust it"
            )
        previous = code


def _operations(file: IO[bytes]) -> Iterator[tuple[str, object]]:
    try:
        yield from ((code.name, argument) for code, argument, _ in pickletools.genops(file))
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from error


def _check_size(tensors: Iterable["Tensor"], available: int) -> None:
    """Raises CheckpointError for tensors that show the same few values many times; twice may be: tied weights."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > 2 * available:
        raise CheckpointError(
            f"its tensors claim {claimed:,} bytes, the file has {available:,}: save it again, every tensor "
            "contiguous and with values of its own"
        )


def _check_names(names: Collection[object]) -> None:
    if len(names) > _MAX_TENSORS:
        raise CheckpointError(f"it has {len(names):,} tensors: expected a model")
    for name in names:
        if not isinstance(name, str) or len(name) > _MAX_NAME or not name.isprintable():
            raise CheckpointError(
                f"one of its tensors has no name that a model could have: {ascii(name)[:60]}"
            )


def _reason(error: Exception) -> str:
    """The first line of a library's message, cut to what a person reads."""
    first = str(error).partition("\n")[0]
    return "".join(c if c.isprintable() else "?" for c in first[:_MAX_REASON])


def _refused_pickle(message: str) -> str:
    code = re.search(r"GLOBAL (\S+)", message)
    if code:
        return f"it asks to run {code[1]} when loaded, which was refused: do not trust this file"
    return "it is a damaged pickle or no checkpoint, and nothing in it was run: download it again"


def _inspect_safetensors(path: Path) -> ModelShape:
    with safe_open(path, framework="numpy") as file:
        _check_names(file.keys())
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
                f"tensor {key!r} is {dtype}: expected float64, float32, float16 or bfloat16; "
                "use a checkpoint that is not quantised"
            )
