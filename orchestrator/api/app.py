"""The web application: API, pages, health and metrics, behind one guard."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from db.session import Database
from orchestrator.api import jobs, operations, rounds
from orchestrator.api.access import COOKIE, Access
from orchestrator.api.examples import with_examples
from orchestrator.api.guard import Guard
from orchestrator.api.metrics import FromDatabase, Metrics
from orchestrator.api.problems import ProblemDetails, install
from orchestrator.api.service import Service
from orchestrator.api.watch import Watch
from orchestrator.intake import Intake, Prepare
from orchestrator.rounds.round_file import MAX_BYTES
from orchestrator.web import site

DESCRIPTION = """
Serial early-prune search for post-training RWKV-7 with Future-Seed.

Accuracies and deltas are fractions (0.001 is +0.10 pp), times are UTC. Errors are problem details (RFC 9457).
Lists come in pages: pass `next` of one page as `cursor` of the request for the following one.
"""

WAYS_IN = {
    "token": {"type": "http", "scheme": "bearer", "description": "From `fsq token create`."},
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "For the pages."},
}
OPEN_PATHS = {"/healthz", "/readyz"}


def create_app(
    database: Database,
    prepare: Prepare,
    *,
    home: Path,
    roots: Sequence[Path],
    hosts: Collection[str],
    is_open: bool,
    snapshot_bytes: int | None = None,
) -> FastAPI:
    """The application for a database that has this version's schema.

    hosts: names by which it may be called; is_open: whoever reaches it may do everything, without a token;
    snapshot_bytes: as `Intake` has it.
    """
    app = FastAPI(
        title="fsq",
        description=DESCRIPTION,
        version=version("fsq"),
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    watch = Watch(database)
    metrics = Metrics(FromDatabase(database, watch))
    app.state.service = Service(
        database=database,
        intake=Intake(database, prepare, roots, snapshot_bytes),
        access=Access(database, is_open),
        watch=watch,
        metrics=metrics,
        home=home,
        roots=roots,
    )
    install(app)
    app.include_router(rounds.router, prefix="/api/v1")
    app.include_router(jobs.router, prefix="/api/v1")
    app.include_router(operations.router)
    site.install(app)
    inner = app.build_middleware_stack
    app.build_middleware_stack = lambda: Guard(inner(), hosts, MAX_BYTES, metrics, is_open=is_open)  # type: ignore[method-assign]
    _complete_document(app)
    return app


def _complete_document(app: FastAPI) -> None:
    """Adds to the OpenAPI document what FastAPI cannot know: shape of problems, ways to sign in, real examples."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"]["schemas"].update(problem.pop("$defs"), ProblemDetails=problem)
            document["components"]["securitySchemes"] = WAYS_IN
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["security"] = [] if path in OPEN_PATHS else [{name: []} for name in WAYS_IN]
            app.openapi_schema = with_examples(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
