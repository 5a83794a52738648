"""The chart of a round as a file, from a database or a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from orchestrator.charts import of_round, rendering
from orchestrator.charts.data import Curve
from orchestrator.client import Client
from orchestrator.views import JobView


def plot(client: Client, name: str, path: Path) -> None:
    """Writes a .png, .svg or .html; raises FsqError, or what the client raises."""
    rendering.check(path)  # before anything is asked for
    from altair.utils.schemapi import debug_mode

    found = client.round(name)
    records = [json.loads(line) for line in client.lines(name, "jsonl")]
    curves = [
        Curve.of(job, client.evaluations(job.id))
        for job in _last_reached(found.stages, list(client.jobs(name)))
    ]
    with debug_mode(False):  # checking every part against the schema is most of the time
        rendering.write(of_round.chart(found, records, curves), path)


def _last_reached(stages: Sequence[str], jobs: Sequence[JobView]) -> list[JobView]:
    """The jobs that have a curve, of each task's last stage that has one."""
    begun = [job for job in jobs if job.step is not None]
    last = {
        task: max((job.stage for job in begun if job.task == task), key=stages.index)
        for task in {job.task for job in begun}
    }
    return [job for job in begun if job.stage == last[job.task]]
