"""Cursors and ETags."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Query, Request, Response

from orchestrator.lookup import Found, Slice
from orchestrator.views import Page

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


def is_known(request: Request, response: Response, stamp: str) -> bool:
    """Whether the client has this version already; gives the response its ETag."""
    tag = f'W/"{stamp}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    return tag in known or "*" in known
