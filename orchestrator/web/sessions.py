"""Signing in with a token, which the browser then holds in a cookie that no script can read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from db import tokens
from orchestrator.api.access import COOKIE
from orchestrator.api.service import Here
from orchestrator.web.rendering import page, visitor

Wanted = Annotated[str, Query(alias="next", max_length=2000)]

router = APIRouter(include_in_schema=False)


@router.get("/login")
def login_form(request: Request, wanted: Wanted = "/") -> Response:
    """The form; whoever is signed in is led on."""
    if visitor(request) is not None:
        return RedirectResponse(own_path(wanted), 303)
    return page(request, "login.html", None, wanted=own_path(wanted), error=None)


@router.post("/login")
def login(
    request: Request,
    here: Here,
    token: Annotated[str, Form(max_length=200)] = "",
    wanted: Annotated[str, Form(alias="next", max_length=2000)] = "/",
) -> Response:
    """Takes a token; the cookie lasts as long as the token does, or as the browser runs."""
    with here.database.read() as session:
        found = tokens.find(session, token.strip(), now=datetime.now(UTC))
    if found is None:
        error = "This token is not valid: it is mistyped, expired or revoked."
        return page(request, "login.html", None, 401, wanted=own_path(wanted), error=error)
    response = RedirectResponse(own_path(wanted), 303)
    response.set_cookie(
        COOKIE,
        token.strip(),
        expires=found.expires_at,
        httponly=True,
        samesite="lax",
        secure=_is_https(request),
    )
    return response


@router.post("/logout")
def logout() -> Response:
    """Forgets the token in this browser; elsewhere it stays valid."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response


def own_path(wanted: str) -> str:
    """A path of this server, to go to after signing in; `/` in place of anything that could lead elsewhere."""
    is_path = wanted.startswith("/") and not wanted.startswith("//")
    return wanted if is_path and "\\" not in wanted and wanted.isprintable() else "/"


def _is_https(request: Request) -> bool:
    """Whether the browser came by https, be it to a proxy before this server; the guard has checked its Origin."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
