"""Undisturbed rounds to compare with, and nights that are over when their test is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.faults.harness import Night, Undisturbed
from tests.faults.rounds import undisturbed, write_data_round, write_round, write_rows

NewNight = Callable[..., Night]


@pytest.fixture(scope="session")
def calm_rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    """The rounds of tests.faults.rounds, undisturbed; run once also where several processes run the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    stored = shared / "undisturbed.json"
    with FileLock(shared / "undisturbed.lock"):
        if not stored.exists():
            folder = tmp_path_factory.mktemp("undisturbed")
            write_rows(folder / "rows.jsonl")
            data = write_data_round(folder, {"path": str(folder / "rows.jsonl")})
            left = undisturbed(folder, write_round(folder), data)
            stored.write_text(
                json.dumps({name: [one.records, sorted(one.files)] for name, one in left.items()})
            )
    return {name: Undisturbed(*one) for name, one in json.loads(stored.read_text()).items()}


@pytest.fixture(scope="session")
def calm(calm_rounds: dict[str, Undisturbed]) -> Undisturbed:
    """The round of `write_round`."""
    return calm_rounds["night"]


@pytest.fixture
def new_night(tmp_path: Path) -> Iterator[NewNight]:
    """Makes a night in the test's folder; its processes are killed when the test ends."""
    nights: list[Night] = []

    def make(database_url: str = "", **environment: str) -> Night:
        nights.append(Night(tmp_path, database_url, environment))
        return nights[-1]

    yield make
    for night in nights:
        night.end()


@pytest.fixture
def night(new_night: NewNight) -> Night:
    """A night on SQLite."""
    return new_night()
