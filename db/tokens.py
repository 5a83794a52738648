"""Access tokens: made once, stored as a hash, looked up by their number, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.tables import Token

FORM = re.compile(r"fsq_([0-9]{1,9})_([A-Za-z0-9_-]{43})")


def create(session: Session, name: str, scope: str, *, now: datetime, expires_at: datetime | None) -> str:
    """A new token, in the only moment at which it can be read; a name can be used once."""
    secret = secrets.token_urlsafe(32)
    token = Token(name=name, digest=_digest(secret), scope=scope, created_at=now, expires_at=expires_at)
    session.add(token)
    session.flush()
    return f"fsq_{token.id}_{secret}"


def find(session: Session, text: str, *, now: datetime) -> Token | None:
    """The token that this text is, if it is one and still valid."""
    form = FORM.fullmatch(text)
    token = session.get(Token, int(form[1])) if form else None
    if form is None or token is None or not hmac.compare_digest(token.digest, _digest(form[2])):
        return None
    return token if is_valid(token, now) else None


def is_valid(token: Token, now: datetime) -> bool:
    """Whether it has neither been revoked nor expired."""
    return token.revoked_at is None and (token.expires_at is None or now < token.expires_at)


def all_of(session: Session) -> Sequence[Token]:
    """Every token there has been, the oldest first."""
    return session.scalars(select(Token).order_by(Token.id)).all()


def revoke(session: Session, name: str, *, now: datetime) -> bool:
    """Makes a token of this name worthless; False when there is none."""
    token = session.scalars(select(Token).where(Token.name == name)).first()
    if token is not None and token.revoked_at is None:
        token.revoked_at = now
    return token is not None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
