"""Cursors and ETags."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, TypeVar

from fastapi import Query, Request, Response
from pydantic import AfterValidator

from orchestrator.lookup import Found, Slice
from orchestrator.views import Page

Item = TypeVar("Item")

MAX_ID = 2**31 - 1


def _decoded(cursor: str) -> str:
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
        if not (text.isdecimal() and int(text) <= MAX_ID):
            raise ValueError
    except (ValueError, binascii.Error):
        raise ValueError("this is no cursor; take it from `next` of the page before") from None
    return text


Limit = Annotated[int, Query(ge=1, le=500, description="At most so many items.")]
Cursor = Annotated[
    Annotated[str, AfterValidator(_decoded)] | None,
    Query(description="`next` of the page before.", max_length=64),
]


def part(cursor: str | None, limit: int) -> Slice:
    """The part of a list that a request wants."""
    return Slice(None if cursor is None else int(cursor), limit)


def page(found: Found) -> Page[Any]:
    """A part of a list as a page."""
    following = None if found.last is None else base64.urlsafe_b64encode(str(found.last).encode()).decode()
    return Page(items=tuple(found.items), next=following)


def is_known(request: Request, response: Response, stamp: str) -> bool:
    """Whether the client has this version already; gives the response its ETag."""
    tag = f'W/"{stamp}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    return tag in known or "*" in known
