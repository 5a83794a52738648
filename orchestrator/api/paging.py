"""Cursors and ETags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Query, Request, Response

from orchestrator.api.service import Service
from orchestrator.lookup import Found, Slice
from orchestrator.views import Page, View

Item = TypeVar("Item")

MAX_ID = 2**31 - 1


Limit = Annotated[int, Query(ge=1, le=500, description="At most so many items.")]
Cursor = Annotated[
    str | None, Query(description="`next` of the page before.", pattern="^[0-9]{1,10}$", max_length=10)
]


def part(cursor: str | None, limit: int) -> Slice:
    """The part of a list that a request wants."""
    return Slice(None if cursor is None else min(int(cursor), MAX_ID), limit)


def page(found: Found) -> Page[Any]:
    """A part of a list as a page."""
    return Page(items=tuple(found.items), next=None if found.last is None else str(found.last))


def answer(request: Request, here: Service, stamp: str, make: Callable[[], View]) -> Response:
    """What is asked for, as it is at a stamp: once for everybody who asks for it."""
    response = Response(media_type="application/json")
    if is_known(request, response, stamp):
        return Response(status_code=304, headers=response.headers)
    asked = (request.url.path, request.url.query, stamp)
    response.body = here.recent.get(asked, lambda: make().model_dump_json().encode())
    response.headers["Content-Length"] = str(len(response.body))
    return response


def is_known(request: Request, response: Response, stamp: str) -> bool:
    """Whether the client has this version already; gives the response its ETag."""
    tag = f'W/"{stamp}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    return tag in known or "*" in known
