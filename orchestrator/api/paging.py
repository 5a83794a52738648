"""Cursors and ETags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Query, Request, Response

from orchestrator.api.service import Service
from orchestrator.views.lookup import Found, Slice
from orchestrator.views.shapes import Page, View

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
    headers = tag(stamp)
    if is_known(request, headers):
        return Response(status_code=304, headers=headers)
    asked = (request.url.path, request.url.query, stamp)
    body = here.recent.get(asked, lambda: make().model_dump_json().encode())
    return Response(body, media_type="application/json", headers=headers)


def tag(stamp: str) -> dict[str, str]:
    """The headers of an answer as it is at a stamp."""
    return {"ETag": f'W/"{stamp}"', "Cache-Control": "private, no-cache"}


def is_known(request: Request, headers: Mapping[str, str]) -> bool:
    """Whether the client has the version with these headers already."""
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    return headers["ETag"] in known or "*" in known
