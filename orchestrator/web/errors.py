"""Errors of pages as pages. Those of the API stay problem details."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from db.errors import DatabaseError
from orchestrator.api.access import User
from orchestrator.api.problems import STATUS
from orchestrator.web.rendering import page, visitor

Handler = Callable[[Request, Exception], Awaitable[Response]]

FOR_PROGRAMS = ("/api/", "/healthz", "/readyz", "/metrics")


def install(app: FastAPI) -> None:
    """Puts pages before the problem details that an app answers with."""
    for kind in [*STATUS, RequestValidationError, HTTPException, Exception]:
        app.add_exception_handler(kind, _shown(cast(Handler, app.exception_handlers[kind])))


def _shown(handler: Handler) -> Handler:
    async def answer(request: Request, error: Exception) -> Response:
        response = await handler(request, error)
        if request.url.path.startswith(FOR_PROGRAMS):
            return response
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            return RedirectResponse(f"/login?next={quote(_asked_for(request))}", 303)
        problem = json.loads(bytes(response.body))
        return page(request, "error.html", _visitor(request), response.status_code, problem=problem)

    return answer


def _asked_for(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _visitor(request: Request) -> User | None:
    """Nobody while the database is out of reach, which may be the very error."""
    try:
        return visitor(request)
    except DatabaseError:
        return None
