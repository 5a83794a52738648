"""The application on a real database, called in this process; real servers are in tests/acceptance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from db import tokens
from db.session import Database
from orchestrator.api.app import create_app
from orchestrator.wiring import preparation
from tests.orchestrator.factories import NOW

MakeClient = Callable[..., TestClient]


@pytest.fixture
def make_client(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """Makes clients of an application that everyone may use, or only those with a token."""
    roots = [tmp_path / "data"]
    roots[0].mkdir()
    monkeypatch.setenv("FSQ_HOME", str(tmp_path / "home"))
    clients: list[TestClient] = []

    def make(*, is_open: bool = True, **options: object) -> TestClient:
        app = create_app(
            database, preparation(), home=tmp_path / "home", roots=roots, hosts={"127.0.0.1"}, is_open=is_open
        )
        clients.append(TestClient(app, base_url="http://127.0.0.1", follow_redirects=False, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    """A client that may do everything."""
    return make_client()


def token(database: Database, scope: str, name: str = "", *, lasts: timedelta = timedelta(days=99999)) -> str:
    """A token that was made on the day of the factories' rounds."""
    with database.write() as session:
        return tokens.create(session, name or scope, scope, now=NOW, expires_at=NOW + lasts)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}
