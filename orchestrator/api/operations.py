"""Health and metrics: for whoever runs the service."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import generate_latest

from db.errors import SchemaMismatch
from db.revision import HEAD
from orchestrator.api import examples
from orchestrator.api.access import require
from orchestrator.api.problems import documented, problem
from orchestrator.api.service import Here
from orchestrator.token_scope import TokenScope
from orchestrator.views.shapes import HealthView

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> HealthView:
    """Whether the server answers at all."""
    return HealthView(status="ok")


@router.get("/readyz", responses={503: documented()[503]})
def readyz(here: Here) -> HealthView:
    """Whether the database answers and has the schema of this version."""
    try:
        revision = here.database.revision()
    except SchemaMismatch as error:
        return problem(503, str(error))  # type: ignore[return-value]
    if revision != HEAD:
        return problem(503, f"the database is at revision {revision}, this version needs {HEAD}")  # type: ignore[return-value]
    return HealthView(status="ok")


@router.get(
    "/metrics",
    response_class=Response,
    responses=documented() | examples.METRICS,
    dependencies=[Depends(require(TokenScope.READ))],
)
async def metrics(here: Here) -> Response:
    """Counts and times for Prometheus."""
    text = await run_in_threadpool(generate_latest, here.metrics.registry)
    return Response(text, media_type="text/plain; version=1.0.0; charset=utf-8")
