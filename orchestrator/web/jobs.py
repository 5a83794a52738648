"""The pages of a job and of the workers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from orchestrator import lookup
from orchestrator.api.access import Scope, User, require
from orchestrator.api.jobs import Id
from orchestrator.api.service import Service, service_of
from orchestrator.errors import NotFound
from orchestrator.run_files import log_tail
from orchestrator.views import JobView
from orchestrator.web import overview
from orchestrator.web.rendering import drawn, page

LOG_BYTES = 16_384

Here = Annotated[Service, Depends(service_of)]
Reader = Annotated[User, Depends(require(Scope.READ))]

router = APIRouter(include_in_schema=False)


@router.get("/jobs/{job_id}")
def show_job(request: Request, here: Here, user: Reader, job_id: Id) -> Response:
    """One training run: its numbers, its curve and the end of its log."""
    with here.database.read() as session:
        job = lookup.job(session, job_id)
        run = overview.run(session, job)
        evaluations = lookup.evaluations(session, job_id)
    log = end_of_log(here.home, job, LOG_BYTES)
    shown = {"run": run, "evaluations": evaluations, "log": log}
    return page(request, "job.html", user, **shown, **drawn(request, [run.curves] if run.curves else []))


@router.get("/workers")
def list_workers(request: Request, here: Here, user: Reader) -> Response:
    """Who works, on what device, at which job."""
    with here.database.read() as session:
        workers = lookup.workers(session, datetime.now(UTC))
    return page(request, "workers.html", user, workers=workers)


def end_of_log(home: Path, job: JobView, size: int) -> str | None:
    """The end of a job's log; None where this machine has none."""
    try:
        return log_tail(home, job, size)
    except NotFound:
        return None
