"""What a job is known by."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.child.factories import SEEDED
from tests.worker.factories import make_job


@pytest.mark.parametrize(
    "changes",
    [
        {"model_facts": {"digest": "other"}},
        {"model": {"tokenizer": "world"}},
        {"model": {"dtype": "bfloat16"}},
        {"examples_digest": "other"},
        {"task": {"batch_size": 8}},
        {"optimizer": {"lr": 2e-3}},
        {"seed": 1},
        {"budget": {"eval_every": 3}},
        {"future_seed": SEEDED.canonical(3)},
    ],
    ids=str,
)
def test_trajectory__is_another_with_anything_that_numbers_depend_on(changes: dict[str, Any]) -> None:
    job = make_job()
    other = job.model_copy(
        update={
            name: getattr(job, name).model_copy(update=change) if isinstance(change, dict) else change
            for name, change in changes.items()
        }
    )
    assert other.trajectory != job.trajectory
    assert other.fingerprint != job.fingerprint
    assert (other.protocol(1) == job.protocol(1)) == ("seed" in changes)


def test_fingerprint__is_of_the_length_and_a_protocol_of_the_version_too() -> None:
    assert make_job(steps=4).fingerprint != make_job(steps=8).fingerprint
    assert make_job().protocol(1) != make_job().protocol(2)
