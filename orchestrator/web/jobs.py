"""The pages of a job and of the workers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from db.tables import JobState
from orchestrator.api.access import Reader
from orchestrator.api.jobs import Id
from orchestrator.api.service import Here
from orchestrator.errors import NotFound
from orchestrator.views import lookup
from orchestrator.views.run_files import log_tail
from orchestrator.views.shapes import JobView, WorkerView
from orchestrator.web import overview, shown_decisions
from orchestrator.web.rendering import drawn, page, poll_seconds

LOG_BYTES = 16_384

router = APIRouter(include_in_schema=False)


@router.get("/jobs/{job_id}")
def show_job(request: Request, here: Here, user: Reader, job_id: Id) -> Response:
    """One training run: its numbers, its curve and the end of its log."""
    with here.database.read() as session:
        job = lookup.job(session, job_id)
        run = overview.run(session, job)
        evaluations = lookup.evaluations(session, job_id)
        decision = shown_decisions.on_job(session, job) if job.state is JobState.DONE else None
        workers = workers_of(session, [job])
        measured = lookup.measured(session, job)
    shown = {
        "run": run,
        "evaluations": evaluations,
        "decision": decision,
        "workers": workers,
        "log": end_of_log(here.home, measured, LOG_BYTES),
        "poll_seconds": poll_seconds(job.state is JobState.DONE),
    }
    return page(request, "job.html", user, **shown, **drawn(request, [run.curves] if run.curves else []))


@router.get("/workers")
def list_workers(request: Request, here: Here, user: Reader) -> Response:
    """Who works, on what device, at which job."""
    with here.database.read() as session:
        workers = lookup.workers(session, datetime.now(UTC))
    return page(request, "workers.html", user, workers=workers)


def workers_of(session: Session, jobs: Sequence[JobView]) -> dict[int, WorkerView]:
    """The workers of the running ones of these jobs, as they are now, by their ids."""
    ids = {job.worker for job in jobs if job.worker is not None and job.state is JobState.RUNNING}
    found = lookup.workers(session, datetime.now(UTC), ids=ids) if ids else []
    return {worker.id: worker for worker in found}


def end_of_log(home: Path, job: JobView, size: int) -> str | None:
    """The end of a job's log; None where this machine has none."""
    try:
        return log_tail(home, job, size)
    except NotFound:
        return None
