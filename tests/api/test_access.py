"""Tokens, scopes, hosts and origins, on both databases."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from db import tokens
from db.session import Database
from db.tables import Token
from orchestrator import engine
from orchestrator.api import server
from orchestrator.api.guard import is_loopback, names_of
from orchestrator.errors import BadInput
from orchestrator.settings import Settings
from tests.api.conftest import MakeClient, bearer, token
from tests.orchestrator.factories import NOW, Rig, resolve, round_data
from worker.job import JobResult, Outcome

READING = [
    "/api/v1/rounds",
    "/api/v1/rounds/r1",
    "/api/v1/rounds/r1/jobs",
    "/api/v1/rounds/r1/decisions",
    "/api/v1/rounds/r1/records",
    "/api/v1/rounds/r1/summary",
    "/api/v1/jobs/1",
    "/api/v1/jobs/1/metrics",
    "/api/v1/workers",
    "/api/v1/status",
    "/metrics",
]


@pytest.fixture
def closed(make_client: MakeClient, database: Database, tmp_path: Path) -> TestClient:
    """A client of a server that wants tokens and has round r1."""
    Rig(database).submit(resolve(tmp_path))
    return make_client(is_open=False)


def submission(client: TestClient, headers: dict[str, str], **changes: Any) -> Any:
    content = yaml.safe_dump(round_data(**changes), sort_keys=False)
    return client.post(
        "/api/v1/rounds", content=content, headers=headers | {"Content-Type": "application/yaml"}
    )


def test_require__without_a_token(closed: TestClient) -> None:
    for path in READING:
        response = closed.get(path)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
    assert closed.post("/api/v1/rounds/r1/cancel").status_code == 401
    assert closed.get("/healthz").json() == closed.get("/readyz").json() == {"status": "ok"}


@pytest.mark.parametrize("wrong", ["", "fsq_1_x", "fsq_1_" + "A" * 43, "fsq_999_" + "A" * 43, "Basic x"])
def test_require__with_a_wrong_token(closed: TestClient, database: Database, wrong: str) -> None:
    token(database, "admin")
    assert closed.get("/api/v1/status", headers=bearer(wrong)).status_code == 401
    assert closed.get("/api/v1/status", headers={"Authorization": wrong}).status_code == 401


def test_require__scopes(closed: TestClient, database: Database) -> None:
    read, submit, admin = (bearer(token(database, scope)) for scope in ("read", "submit", "admin"))

    for path in READING:
        assert closed.get(path, headers=read).status_code == 200, path
    refused = submission(closed, read, round="r2", seeds=[5])
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "the token 'read' has the scope read; this needs submit",
    )
    assert submission(closed, submit, round="r2", seeds=[5]).status_code == 201
    assert closed.post("/api/v1/rounds/r1/cancel", headers=submit).json()["detail"] == (
        "r1 was submitted by me; cancelling and retrying it needs the scope admin"
    )
    assert closed.post("/api/v1/rounds/r2/cancel", headers=submit).status_code == 200  # its own
    assert closed.post("/api/v1/rounds/r1/cancel", headers=admin).status_code == 200


def test_require__expired_and_revoked(closed: TestClient, database: Database) -> None:
    soon = token(database, "read", "soon", lasts=timedelta(days=1))  # from a day long ago
    lasting = token(database, "read", "lasting")

    assert closed.get("/api/v1/status", headers=bearer(soon)).status_code == 401
    assert closed.get("/api/v1/status", headers=bearer(lasting)).status_code == 200
    with database.write() as session:
        assert tokens.revoke(session, "lasting", now=datetime.now(UTC))
    assert closed.get("/api/v1/status", headers=bearer(lasting)).status_code == 401


def test_server__that_had_tokens_does_not_open_when_the_last_one_ends(database: Database) -> None:
    settings = Settings()
    assert server._is_open(database, settings)
    token(database, "admin", "old", lasts=timedelta(days=1))  # from a day long ago
    assert not server._is_open(database, settings)
    with pytest.raises(BadInput, match="others could reach the server, so it needs tokens"):
        server._is_open(database, Settings(host="192.0.2.1"))


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-host", "Forwarded", "Via"])
def test_server__that_is_open_answers_no_proxy(
    make_client: MakeClient, database: Database, name: str
) -> None:
    for is_open, status in ((True, 403), (False, 200)):
        refused = make_client(is_open=is_open).get("/healthz", headers={name: "10.0.0.1"})
        assert refused.status_code == status
    assert make_client().get("/healthz").status_code == 200


def test_create__stores_no_secret(database: Database) -> None:
    text = token(database, "admin")
    secret = text.split("_", 2)[2]  # which may have such a character itself
    with database.read() as session:
        (row,) = tokens.all_of(session)
        stored = [str(getattr(row, column.key)) for column in Token.__table__.columns]
        assert not any(secret in value for value in stored)
        assert tokens.find(session, text, now=NOW) is row


def test_find__nothing_else_is_a_token(database: Database) -> None:
    """Not with any one character changed, missing or added, nor one token's number with another's secret."""
    text, other = token(database, "admin"), token(database, "read")
    wrong = [text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] for at in range(len(text))]
    wrong += [text[1:], text[:-1], f"{text}A", f" {text}", f"{text}\n", "", text.upper()]
    wrong += [f"{text[:6]}{other[6:]}", text.replace("fsq_1_", "fsq_9_"), text.replace("fsq_1_", "fsq_01_x")]
    with database.read() as session:
        assert tokens.find(session, text, now=NOW) is not None
        assert [each for each in wrong if tokens.find(session, each, now=NOW)] == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[::2]", "127.0.0.2"]
)
def test_guard__other_hosts(client: TestClient, host: str) -> None:
    response = client.get("/api/v1/status", headers={"Host": host})
    assert (response.status_code, response.headers["content-type"]) == (421, "application/problem+json")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Origin": "http://127.0.0.1"}, 404),
        ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, 404),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:81"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_guard__changes_from_other_origins(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post("/api/v1/rounds/none/cancel", headers=headers).status_code == status


def test_guard__headers_on_every_answer(client: TestClient) -> None:
    for path in ("/healthz", "/api/v1/status", "/nowhere", "/api/v1/rounds/none"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("192.168.0.1", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    assert "localhost" in names_of(host)


def test_get_log__only_from_the_runs(client: TestClient, database: Database, tmp_path: Path) -> None:
    Rig(database).submit(resolve(tmp_path))
    folder = tmp_path / "home" / "runs" / "r1" / "s4" / "quick" / "baseline" / "seed0"
    assert client.get("/api/v1/jobs/1/log").status_code == 404

    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("".join(f"line {number}\n" for number in range(1000)))
    assert client.get("/api/v1/jobs/1/log?bytes=20").text == "line 998\nline 999\n"
    assert len(client.get("/api/v1/jobs/1/log").text.splitlines()) == 1000

    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to(secret)
    assert client.get("/api/v1/jobs/1/log").status_code == 404


def test_get_log__of_a_cached_result_is_that_of_the_run(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})
    rig.submit(resolve(tmp_path, round="r2"))
    first = client.get("/api/v1/rounds/r2/jobs").json()["items"][0]
    assert first["cached_from"] == 1
    folder = tmp_path / "home" / "runs" / "r1" / "s4" / "quick" / "baseline" / "seed0"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("what it said\n")
    assert client.get(f"/api/v1/jobs/{first['id']}/log").text == "what it said\n"


def test_guard__odd_methods_are_counted_as_one(client: TestClient) -> None:
    for method in ("FOO", "BAR", "BAZ"):
        client.request(method, "/api/v1/status")
    text = client.get("/metrics").text
    assert 'method="other"' in text
    assert "FOO" not in text


def test_metrics__a_job_that_was_just_queued_has_not_waited(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    with database.write() as session:
        engine.submit(session, resolve(tmp_path), "", by="me", now=datetime.now(UTC))
    (age,) = re.findall(r"^fsq_oldest_queued_job_age_seconds (.*)$", client.get("/metrics").text, re.M)
    assert 0 <= float(age) < 60


def test_metrics__counters_never_fall(client: TestClient, database: Database, tmp_path: Path) -> None:
    def ended() -> str:
        lines = client.get("/metrics").text.splitlines()
        return next(line for line in lines if line.startswith('fsq_jobs_finished_total{outcome="oom"}'))

    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    before = ended()
    client.post("/api/v1/rounds/r1/retry")
    assert ended() == before


@pytest.mark.parametrize("form", ["text", "json"])
def test_logs__a_defect_shows_no_variables(form: str) -> None:
    """Tracebacks with the values of variables would carry tokens."""
    code = f"""
import structlog
from orchestrator import logs
logs.configure({form!r})
token = "fsq_1_secret"
try:
    1 / 0
except ZeroDivisionError as error:
    structlog.get_logger().error("defect", exc_info=error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ZeroDivisionError" in done.stderr
    assert "fsq_1_secret" not in done.stderr
