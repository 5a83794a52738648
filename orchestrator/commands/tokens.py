"""Tokens for the service over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from orchestrator.commands.options import AsJson, refuse_a_server_alone
from orchestrator.errors import BadInput, Conflict, NotFound
from orchestrator.token_scope import TokenScope
from orchestrator.wiring import open_database

LONGEST_NAME = 100  # characters


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    scope: Annotated[
        TokenScope, typer.Option(help="What it allows; each includes the one before.")
    ] = TokenScope.READ,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Such as 12h, 30d, 52w; default: never.")
    ] = None,
) -> None:
    """Make a token and print it: it cannot be shown again."""
    from db import tokens
    from orchestrator.durations import parse_duration

    refuse_a_server_alone("token create")
    if not (name.isprintable() and name == name.strip() and 1 <= len(name) <= LONGEST_NAME):
        raise BadInput(
            f"a token's name has 1 to {LONGEST_NAME} printable characters, the first and the last no spaces"
        )
    now = datetime.now(UTC)
    expires_at = now + parse_duration(expires) if expires else None
    with open_database() as database, database.write() as session:
        if any(token.name == name for token in tokens.all_of(session)):
            raise Conflict(f"there has been a token {name!r} already; give this one another name")
        text = tokens.create(session, name, scope, now=now, expires_at=expires_at)
    typer.echo(text)


def list_tokens(as_json: AsJson = False) -> None:
    """Show the tokens there are, without their secrets."""
    from db import tokens
    from orchestrator.terminal.listings import token_table

    refuse_a_server_alone("token list")
    with open_database() as database, database.read() as session:
        listed = [
            {
                "name": token.name,
                "scope": token.scope,
                "created_at": token.created_at.isoformat(),
                "expires_at": token.expires_at and token.expires_at.isoformat(),
                "is_valid": tokens.is_valid(token, datetime.now(UTC)),
            }
            for token in tokens.all_of(session)
        ]
    typer.echo(json.dumps(listed) if as_json else token_table(listed))


def revoke(name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]) -> None:
    """Make a token worthless, at once."""
    from db import tokens

    refuse_a_server_alone("token revoke")
    with open_database() as database, database.write() as session:
        if not tokens.revoke(session, name, now=datetime.now(UTC)):
            raise NotFound(f"there is no token named {name!r} (`fsq token list` shows them)")
    typer.echo(f"{name}: revoked")
