"""Puts the pages into the application."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from orchestrator.web import errors, jobs, rounds, sessions
from orchestrator.web.drawings import Drawings
from orchestrator.web.overview import Overviews
from orchestrator.web.rendering import STATIC


def install(app: FastAPI) -> None:
    """Adds pages, static files and error pages to an app that has its service and its problem details."""
    app.state.overviews = Overviews(app.state.service.database)
    app.state.drawings = Drawings()
    errors.install(app)
    for router in (rounds.router, jobs.router, sessions.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC))
