"""Builds the C kernels with the system's compiler on first use, into the user's cache directory."""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

import platformdirs

from model.errors import KernelError

_LARGEST_HEAD = 128
_SOURCE = Path(__file__).with_name("wkv7.c")
# wkv7.c says itself what is a vector; clang knows these two as well, and refuses what it does not know
_LEFT_OUT = ("-fno-tree-vectorize", "-fno-tree-slp-vectorize")
FLAGS = ("-O2", "-march=native", "-fopenmp", "-shared", "-fPIC", *_LEFT_OUT)
"""With which the kernels are compiled, besides their head size."""
_CPU_INFO = Path("/proc/cpuinfo")


def library(head_size: int, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return the kernels compiled for a head size, with more compiler flags if given (`-mno-avx512f`).

    Raises `KernelError` if the head size is no multiple of 4 or so large that the states of a span would not fit a
    thread's stack, or if there is no compiler that can build them.
    """
    if head_size % 4 != 0 or head_size > _LARGEST_HEAD:
        raise KernelError(
            f"head size {head_size}: the compiled kernels take multiples of 4 up to {_LARGEST_HEAD}"
        )
    return compiled_source(_SOURCE, (*flags, f"-DN={head_size}"))


def compiled_source(source: Path, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return a C source compiled for this machine; raises `KernelError` if that is not possible."""
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError as error:
        raise KernelError(f"the variable CC cannot be read: {error}") from error
    command = [*compiler, *FLAGS, *flags]
    folder = platformdirs.user_cache_path("fsq") / "kernels"
    name = f"{source.stem}-{_key(source, compiler, command)}"
    try:
        path = _built(folder, name) or _compile(source, command, folder, name)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(
            f"cannot build or load kernels in {folder} ({error}): check that it is writable"
        ) from error


def _key(source: Path, compiler: list[str], command: list[str]) -> str:
    """Everything that the binary depends on: source, command, compiler and processor."""
    version = _run([*compiler, "--version"])
    processor = [platform.machine()]
    if _CPU_INFO.exists():
        processor += sorted(
            {line for line in _CPU_INFO.read_text().splitlines() if line.startswith(("flags", "model name"))}
        )
    parts = [source.read_text(), *command, version, *processor]
    return _digest("\0".join(parts).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _built(folder: Path, name: str) -> Path | None:
    """One that was built before and is whole: what it must hold, its name says. To load half a file is to crash."""
    found = folder.glob(f"{name}-*.so")
    return next((path for path in found if path.stem == f"{name}-{_digest(path.read_bytes())}"), None)


def _compile(source: Path, command: list[str], folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        built = Path(directory) / "built.so"
        _run([*command, str(source), "-o", str(built)])
        path = folder / f"{name}-{_digest(built.read_bytes())}.so"
        built.replace(path)  # atomic: a process that builds at the same time finds a whole file
    return path


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    except FileNotFoundError as error:
        raise KernelError(
            f"no C compiler {command[0]!r}: install gcc, or name one in the variable CC"
        ) from error
    except subprocess.CalledProcessError as error:
        raise KernelError(f"{' '.join(command)} failed: {error.stderr.strip()[-500:]}") from error
