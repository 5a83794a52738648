from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from task_samples import Bytes

settings.register_profile("unhurried", deadline=None)  # machines are shared
settings.load_profile("unhurried")

SHARED = Path(os.environ.get("FSQ_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def tokenizer() -> Bytes:
    return Bytes()


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Path of a file of the real data; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs real data: {path} is absent (set FSQ_SHARED_DATA)")
        return path

    return find
