"""Built examples on disk, found by everything that determines them.

A file is a safetensors payload followed by the payload's SHA-256; there is no pickle. A damaged file
counts as absent and is built again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tasks.config import TaskConfig
from tasks.example import Example
from tasks.files import write_whole
from tasks.report import BuildReport, Built
from tasks.tokens import Tokenizer

BUILD_VERSION = 7  # raise it whenever equal input gives other examples or another report

_CHECKSUM_BYTES = 32


def file_name(config: TaskConfig, code: str, source: str, tokenizer: Tokenizer) -> str:
    """Name made of the SHA-256 over all that the examples depend on.

    code: fingerprint of the modules that have the kind; source: fingerprint of the data.
    """
    parts = {
        "version": BUILD_VERSION,
        "config": config.model_dump(mode="json", exclude={"data", "batch_size"}),
        "code": code,
        "source": source,
        "tokenizer": [tokenizer.name, tokenizer.vocab_size],
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return f"{config.kind}-{hashlib.sha256(canonical.encode()).hexdigest()}.examples"


def save(path: Path, train: Sequence[Example], val: Sequence[Example], report: BuildReport) -> None:
    """Stores a build; a reader sees either all of it or nothing."""
    meta: dict[str, Any] = {"report": report.model_dump(mode="json")}
    arrays: dict[str, NDArray[Any]] = {}
    for split, examples in (("train", train), ("val", val)):
        meta[split] = [example.id for example in examples]
        for part in ("prompt", "answer"):
            pieces = [getattr(example, part) for example in examples]
            arrays[f"{split}.{part}"] = np.concatenate(pieces)
            arrays[f"{split}.{part}.lengths"] = np.array([len(piece) for piece in pieces], dtype=np.int64)
    arrays["json"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    payload = save_arrays(arrays)
    write_whole(path, payload + hashlib.sha256(payload).digest())


def load(path: Path) -> Built | None:
    """The stored build; None where there is none, or a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    payload, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if hashlib.sha256(payload).digest() != checksum:
        return None
    arrays = load_arrays(payload)
    meta = json.loads(arrays["json"].tobytes())
    train, val = (_examples(arrays, split, meta[split]) for split in ("train", "val"))
    return train, val, BuildReport.model_validate(meta["report"])


def _examples(arrays: dict[str, NDArray[Any]], split: str, ids: list[str]) -> list[Example]:
    prompts, answers = (_pieces(arrays, f"{split}.{part}") for part in ("prompt", "answer"))
    return [Example(*example) for example in zip(ids, prompts, answers, strict=True)]


def _pieces(arrays: dict[str, NDArray[Any]], name: str) -> list[NDArray[np.int32]]:
    ends = np.cumsum(arrays[f"{name}.lengths"])
    return np.split(arrays[name], ends[:-1])
