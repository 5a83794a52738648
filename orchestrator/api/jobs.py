"""Jobs, workers and the whole in a few numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import PlainTextResponse

from orchestrator.api import examples
from orchestrator.api.access import require
from orchestrator.api.paging import MAX_ID
from orchestrator.api.problems import documented
from orchestrator.api.service import Here
from orchestrator.token_scope import TokenScope
from orchestrator.views import lookup
from orchestrator.views.run_files import log_tail
from orchestrator.views.shapes import EvaluationView, JobView, Listed, StatusView, WorkerView

Id = Annotated[int, Path(ge=1, le=MAX_ID, description="The job's number.")]

router = APIRouter(dependencies=[Depends(require(TokenScope.READ))])


@router.get("/jobs/{job_id}", tags=["jobs"], responses=documented(404, 422))
def get_job(here: Here, job_id: Id) -> JobView:
    """One training run."""
    with here.database.read() as session:
        return lookup.job(session, job_id)


@router.get("/jobs/{job_id}/metrics", tags=["jobs"], responses=documented(404, 422))
def get_metrics(here: Here, job_id: Id) -> Listed[EvaluationView]:
    """The learning curve of a job, or of the one whose result it has."""
    with here.database.read() as session:
        return Listed(items=tuple(lookup.evaluations(session, job_id)))


@router.get(
    "/jobs/{job_id}/log",
    tags=["jobs"],
    response_class=PlainTextResponse,
    responses=documented(404, 422) | examples.LOG,
)
def get_log(
    here: Here,
    job_id: Id,
    size: Annotated[int, Query(alias="bytes", ge=1, le=1_000_000, description="From the end.")] = 65_536,
) -> PlainTextResponse:
    """The end of what a job printed, or the one whose result it has."""
    with here.database.read() as session:
        found = lookup.measured(session, lookup.job(session, job_id))
    return PlainTextResponse(log_tail(here.home, found, size))


@router.get("/workers", tags=["workers"], responses=documented())
def list_workers(here: Here) -> Listed[WorkerView]:
    """The workers, those first that were seen last; at most a hundred."""
    with here.database.read() as session:
        return Listed(items=tuple(lookup.workers(session, datetime.now(UTC))))


@router.get("/status", tags=["workers"], responses=documented())
def get_status(here: Here) -> StatusView:
    """The whole service in a few numbers."""
    with here.database.read() as session:
        return lookup.status(session, datetime.now(UTC))
