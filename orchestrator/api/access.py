"""Who may do what: tokens with scopes, in a header or, for the pages, in a cookie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from db import tokens
from db.session import Database
from orchestrator.api.problems import Forbidden, Unauthorized
from orchestrator.token_scope import TokenScope

COOKIE = "fsq_token"


@dataclass(frozen=True)
class User:
    """Whoever made a request."""

    name: str
    scope: TokenScope

    def may_change(self, owner: str | None) -> bool:
        """Whether this user may cancel and retry the rounds that `owner` submitted; None: nobody known."""
        return self.scope is TokenScope.ADMIN or (self.scope is TokenScope.SUBMIT and owner == self.name)


LOCAL = User("local user", TokenScope.ADMIN)


@dataclass(frozen=True)
class Access:
    """Tells who a token belongs to. `is_open`: whoever can connect may do everything."""

    database: Database
    is_open: bool

    def user(self, token: str | None) -> User | None:
        """The user with this token; None where it is missing, wrong, expired or revoked."""
        if self.is_open:
            return LOCAL
        if token is None:
            return None
        with self.database.read() as session:
            found = tokens.find(session, token, now=datetime.now(UTC))
            return User(found.name, TokenScope(found.scope)) if found else None


def token_of(request: Request) -> str | None:
    """The token that a request carries: as a bearer, else in the cookie."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE)


def require(scope: TokenScope) -> Callable[[Request], object]:
    """A dependency that yields the user, or raises Unauthorized, or Forbidden for too small a scope."""

    async def user(request: Request) -> User:
        access: Access = request.app.state.service.access
        found = LOCAL if access.is_open else await run_in_threadpool(access.user, token_of(request))
        if found is None:
            raise Unauthorized("this server needs a token: Authorization: Bearer fsq_...")
        if not found.scope.includes(scope):
            raise Forbidden(f"the token {found.name!r} has the scope {found.scope}; this needs {scope}")
        return found

    return user


Reader = Annotated[User, Depends(require(TokenScope.READ))]
Submitter = Annotated[User, Depends(require(TokenScope.SUBMIT))]
