"""The chart of a round as a file, from a database or a server."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.charts import of_round, rendering
from orchestrator.charts.data import Curve
from orchestrator.client import Client


def plot(client: Client, name: str, path: Path) -> None:
    """Writes a .png, .svg or .html; raises FsqError, or what the client raises."""
    rendering.check(path)  # before anything is asked for

    found = client.round(name)
    records = [json.loads(line) for line in client.lines(name, "jsonl")]
    curves = [
        Curve.of(job, client.evaluations(job.id))
        for job in of_round.last_reached(found.stages, list(client.jobs(name)))
    ]
    with rendering.unchecked():
        rendering.write(of_round.chart(found, records, curves), path)
