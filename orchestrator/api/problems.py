"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from db.errors import DatabaseUnreachable
from orchestrator.api.paths import template
from orchestrator.errors import BadRound, BrokenRound, Conflict, FsqError, NotFound, OutOfReach

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "30"

log = structlog.get_logger("fsq.api")


class Unauthorized(FsqError):
    """No valid token."""


class Forbidden(FsqError):
    """A valid token with too small a scope."""


class UnsupportedMediaType(FsqError):
    """A body of a kind that is not understood."""


class RoundProblem(BaseModel):
    """One thing wrong with a round or a request."""

    path: str = Field(description="Into the round: tasks.mbpp_fix.val; or into the request: query.limit.")
    line: int | None = None
    message: str


class ProblemDetails(BaseModel):
    """An error, by RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no round named 'night' (`fsq status` lists them)",
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    name: str | None = Field(default=None, description="Of the round file.")
    problems: list[RoundProblem] | None = Field(default=None, description="Everything that is wrong.")


STATUS = {
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BadRound: HTTPStatus.UNPROCESSABLE_ENTITY,
    BrokenRound: HTTPStatus.NOT_IMPLEMENTED,
    OutOfReach: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
}
HEADERS = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": RETRY_AFTER_SECONDS},
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a handler for these errors, beside those that every handler may give."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        int(status): {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in (
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.FORBIDDEN,
            HTTPStatus.MISDIRECTED_REQUEST,
            HTTPStatus.NOT_IMPLEMENTED,
            HTTPStatus.SERVICE_UNAVAILABLE,
            *statuses,
        )
    }


def problem(status: int, detail: str, headers: Any = None, **more: Any) -> JSONResponse:
    """A problem document as a response."""
    content = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=detail, **more)
    return JSONResponse(
        content.model_dump(exclude_none=True),
        int(status),
        media_type=MEDIA_TYPE,
        headers=HEADERS.get(HTTPStatus(status), {}) | dict(headers or {}),
    )


def install(app: FastAPI) -> None:
    """Makes every error of an app a problem document."""
    for kind in STATUS:
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)


async def _known(_: Request, error: Exception) -> JSONResponse:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if isinstance(error, BadRound):
        found = [
            RoundProblem(path=each.path, line=each.line, message=each.message) for each in error.problems
        ]
        return problem(status, str(error), name=error.name, problems=found)
    if isinstance(error, DatabaseUnreachable):
        log.error("database out of reach", reason=str(error))  # its address is nobody's business
        return problem(status, "the database does not answer")
    return problem(status, str(error))


async def _bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
    found = [
        RoundProblem(path=".".join(map(str, each["loc"])), line=None, message=each["msg"])
        for each in error.errors()
    ]
    detail = "; ".join(f"{each.path}: {each.message}" for each in found)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, problems=found)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    headers = dict(error.headers or {})
    operations = request.app.openapi()["paths"].get(template(request.scope))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and operations:
        headers["Allow"] = ", ".join(method.upper() for method in operations)  # of all handlers of the path
    return problem(error.status_code, str(error.detail), headers)


async def _defect(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", path=request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a defect of fsq; the server's log has the details")
