"""Rounds over HTTP, on both databases."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from fastapi.testclient import TestClient
from sqlalchemy import select
from structlog.testing import capture_logs

from db.session import Database
from db.tables import Round
from orchestrator import interventions
from orchestrator.findings.records import records, to_jsonl
from tests.api.conftest import MakeClient
from tests.orchestrator.factories import Rig, resolve, result, round_data
from worker.job import JobResult, Outcome

YAML = {"Content-Type": "application/yaml"}


def body(**changes: Any) -> str:
    return yaml.safe_dump(round_data(**changes), sort_keys=False)


def problem(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["status"] == response.status_code
    return dict(found)


def finished(database: Database, folder: Path) -> Rig:
    """Round r1 with l1 promoted at both stages."""
    rig = Rig(database)
    rig.submit(resolve(folder))
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.5})
    return rig


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_submit__new_known_and_taken(client: TestClient, kind: str) -> None:
    def send(**changes: Any) -> Any:
        if kind == "json":
            return client.post("/api/v1/rounds", json=round_data(**changes))
        return client.post("/api/v1/rounds", content=body(**changes), headers=YAML)

    first, again, other = send(), send(), send(seeds=[1])

    assert (first.status_code, first.json()) == (201, {"round": "r1", "state": "active", "is_new": True})
    assert first.headers["location"] == "/api/v1/rounds/r1"
    assert (again.status_code, again.json()["is_new"]) == (200, False)
    assert other.status_code == 409
    assert "a round named 'r1' exists and differs" in problem(other)["detail"]


def test_submit__dry_run_stores_nothing(client: TestClient) -> None:
    response = client.post("/api/v1/rounds?dry_run=true", content=body(), headers=YAML)

    assert response.status_code == 200
    assert (response.json()["no_ops"], response.json()["tasks"][0]["stages"]["quick"]["jobs"]) == (
        ["noop"],
        3,
    )
    assert client.get("/api/v1/rounds").json() == {"items": [], "next": None}


def test_submit__dry_run_refuses_what_submitting_would(client: TestClient) -> None:
    def ask(where: str, **changes: Any) -> Any:
        return client.post(f"/api/v1/rounds?dry_run=true{where}", content=body(**changes), headers=YAML)

    nobody = {"after": {"round": "nobody"}}
    assert client.post("/api/v1/rounds", content=body(), headers=YAML).status_code == 201
    assert [ask("").status_code, ask("", seeds=[1]).status_code] == [200, 409]
    assert ask("", round="r2", **nobody).status_code == 404
    assert "exists and differs" in ask("&plan=true", seeds=[1]).json()["conflict"]
    assert ask("&plan=true", round="r2", **nobody).json()["missing"] == "nobody"


def test_submit__a_file_outside_its_repository(client: TestClient) -> None:
    for file in ("../../etc/passwd", "/etc/passwd"):
        model = {"checkpoint": {"hub": {"repo": "a/b", "file": file}}, "tokenizer": "bytes"}
        response = client.post("/api/v1/rounds", content=body(model=model), headers=YAML)
        assert response.status_code == 422
        assert "is no path within a repository" in problem(response)["detail"]


@pytest.mark.parametrize("what", ["records", "summary", ""])
def test_broken_round__is_told_before_anything_is_sent(
    client: TestClient, database: Database, tmp_path: Path, what: str
) -> None:
    finished(database, tmp_path)
    with database.write() as session:
        row = session.scalars(select(Round)).one()
        row.spec = row.spec | {"prune": {"rule": "gone"}}
    response = client.get(f"/api/v1/rounds/r1/{what}".rstrip("/"))
    assert response.status_code == 501
    assert "there is no prune rule 'gone'" in problem(response)["detail"]


def test_records__while_a_retry_takes_decisions_back(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(
        resolve(tmp_path, variants={f"v{n}": {"layer_start": 1, "alpha_init": n / 9} for n in range(9)})
    )
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    with patch("orchestrator.findings.records.BATCH", 4):
        lines = records(database, "r1")
        first = [next(lines) for _ in range(3)]
        with database.write() as session:
            assert interventions.retry(session, "r1", by="me", now=datetime.now(UTC)).changed
        rest = list(lines)
    assert [line["status"] for line in first] == ["oom", "undecided", "undecided"]
    assert [line["config"] for line in rest] == ["v2"]  # of the batch that had been read


def test_head__is_the_head_of_what_get_answers(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    finished(database, tmp_path)
    for path in (
        "/healthz",
        "/",
        "/api/v1/rounds",
        "/api/v1/rounds/r1/records",
        "/api/v1/rounds/none",
        "/metrics",
    ):
        head, whole = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (whole.status_code, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
    stream = client.head("/api/v1/rounds/r1/events")
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    counted = 'fsq_http_requests_total{method="HEAD",route="/api/v1/rounds/{name}/events",status="200"} 1.0'
    assert counted in client.get("/metrics").text


def test_submit__everything_that_is_wrong_with_its_line(client: TestClient) -> None:
    text = "round: r1\nmodle: {}\nstages: []\n"
    response = client.post("/api/v1/rounds", content=text, headers=YAML | {"X-Round-File": "night.yaml"})

    found = problem(response)
    assert (response.status_code, found["name"]) == (422, "night.yaml")
    assert {"path": "modle", "line": 2, "message": "unknown key 'modle'; did you mean 'model'?"} in found[
        "problems"
    ]
    assert {each["path"] for each in found["problems"]} >= {"model", "stages", "tasks", "variants"}


@pytest.mark.parametrize(
    ("content", "kind", "status", "detail"),
    [
        ("round: r", "text/plain", 415, "not text/plain"),
        ("round: [", "application/yaml", 422, "not valid YAML"),
        ("[1]", "application/json", 422, "expected an object"),
        ('{"a": NaN}', "application/json", 422, "NaN is no number"),
        ('{"a": 1, "a": 2}', "application/json", 422, "stands twice"),
        ('{"a": "\\ud800"}', "application/json", 422, "not valid JSON"),
        ("[" * 100_000, "application/json", 422, "not valid JSON"),
        ('{"a":' * 50 + "1" + "}" * 50, "application/json", 422, "nested more than"),
        ("x: " + "y" * 2_000_000, "application/yaml", 413, "at most 1,000,000 bytes"),
    ],
)
def test_submit__bad_bodies(client: TestClient, content: str, kind: str, status: int, detail: str) -> None:
    response = client.post("/api/v1/rounds", content=content, headers={"Content-Type": kind})

    assert response.status_code == status
    assert detail in problem(response)["detail"]


def test_submit__what_has_no_content_type_is_yaml(client: TestClient) -> None:
    response = client.post("/api/v1/rounds", content=body(), headers={"Content-Type": ""})
    assert response.status_code == 201


def test_submit__after_an_unknown_round(client: TestClient) -> None:
    response = client.post("/api/v1/rounds?after=r0", content=body(), headers=YAML)

    assert (response.status_code, problem(response)["detail"][:28]) == (404, "there is no round named 'r0'")


def test_list_rounds__pages_newest_first_and_etag(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    for number in range(5):
        rig.submit(resolve(tmp_path, round=f"r{number}", seeds=[number]))

    names, cursor = [], None
    while True:
        page = client.get(
            "/api/v1/rounds", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        names.append([item["round"] for item in page["items"]])
        cursor = page["next"]
        if cursor is None:
            break
    assert names == [["r4", "r3"], ["r2", "r1"], ["r0"]]

    tag = client.get("/api/v1/rounds").headers["etag"]
    assert client.get("/api/v1/rounds", headers={"If-None-Match": tag}).status_code == 304
    rig.run_next(result(0.2))
    assert client.get("/api/v1/rounds", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("cursor", ["x", "-1", "1.0", "12345678901", "", "é"])
def test_list_rounds__no_cursor(client: TestClient, cursor: str) -> None:
    response = client.get("/api/v1/rounds", params={"cursor": cursor})
    assert (response.status_code, problem(response)["problems"][0]["path"]) == (422, "query.cursor")


def test_get_round__how_far_it_is(client: TestClient, database: Database, tmp_path: Path) -> None:
    finished(database, tmp_path)

    found = client.get("/api/v1/rounds/r1").json()

    assert (found["state"], found["no_ops"], found["jobs"]["done"]) == ("finished", ["noop"], 5)
    assert found["funnel"] == {
        "planned": 6,
        "done": 5,
        "cached": 0,
        "pruned": 1,
        "rejected": 0,
        "promoted": 1,
        "confirmed": 0,
    }
    assert client.get("/api/v1/rounds?state=finished").json()["items"][0]["decisions"] == {
        "promoted": 2,
        "pruned": 1,
        "no_op": 1,
    }
    assert client.get("/api/v1/rounds?state=active").json()["items"] == []


def test_jobs_and_decisions__in_pages(client: TestClient, database: Database, tmp_path: Path) -> None:
    finished(database, tmp_path)

    first = client.get("/api/v1/rounds/r1/jobs?limit=3").json()
    rest = client.get("/api/v1/rounds/r1/jobs", params={"limit": 3, "cursor": first["next"]}).json()
    decisions = client.get("/api/v1/rounds/r1/decisions").json()["items"]

    jobs = [(job["stage"], job["config"], job["best_val_tok_acc"]) for job in first["items"] + rest["items"]]
    assert jobs == [
        ("quick", "baseline", 0.2),
        ("quick", "l1", 0.5),
        ("med", "baseline", 0.2),
        ("med", "l1", 0.5),
        ("quick", "l2", 0.2),
    ]
    assert [(d["config"], d["stage"], d["decision"]) for d in decisions] == [
        ("l1", "quick", "promoted"),
        ("l1", "med", "promoted"),
        ("l2", "quick", "pruned"),
        ("noop", "quick", "no_op"),
    ]
    job = client.get(f"/api/v1/jobs/{first['items'][1]['id']}").json()
    assert job == first["items"][1]
    assert client.get("/api/v1/jobs/999").status_code == 404
    assert client.get("/api/v1/rounds/none/jobs").status_code == 404


def test_records_and_summary(client: TestClient, database: Database, tmp_path: Path) -> None:
    finished(database, tmp_path)

    response = client.get("/api/v1/rounds/r1/records")

    assert response.headers["content-type"].startswith("application/jsonl")
    assert response.text == "".join(f"{to_jsonl(record)}\n" for record in records(database, "r1"))
    table = client.get("/api/v1/rounds/r1/records?format=csv").text.splitlines()
    assert len(table) == len(response.text.splitlines()) + 1
    assert client.get("/api/v1/rounds/r1/summary").text.splitlines()[1] == "r1: finished"
    for path in ("records", "records?format=csv", "summary"):
        tag = client.get(f"/api/v1/rounds/r1/{path}").headers["etag"]
        assert client.get(f"/api/v1/rounds/r1/{path}", headers={"If-None-Match": tag}).status_code == 304
    assert client.get("/api/v1/rounds/none/records").status_code == 404


def events(text: str) -> list[dict[str, str]]:
    """The messages of an event stream, comments left out."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block) for block in blocks]  # type: ignore[misc]


def test_events__from_the_start_and_from_the_last_one(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    finished(database, tmp_path)

    whole = events(client.get("/api/v1/rounds/r1/events").text)
    rest = events(client.get("/api/v1/rounds/r1/events", headers={"Last-Event-ID": "4"}).text)
    nothing = client.get("/api/v1/rounds/r1/events", headers={"Last-Event-ID": whole[-1]["id"]})

    assert [each["id"] for each in whole] == [str(number) for number in range(1, len(whole) + 1)]
    assert (whole[0]["event"], whole[-1]["event"]) == ("submitted", "finished")
    assert rest == whole[4:]
    assert nothing.status_code == 204
    data = json.loads(whole[3]["data"])
    assert (data["kind"], data["data"]["config"], data["data"]["outcome"]) == ("job_ended", "baseline", "ok")
    other = client.get("/api/v1/rounds/r1/events", headers={"Last-Event-ID": "999"})
    assert events(other.text) == whole  # of another database, or made up
    assert client.get("/api/v1/rounds/none/events").status_code == 404
    assert client.get("/api/v1/rounds/r1/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_cancel_and_retry(client: TestClient, database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))

    first, second = client.post("/api/v1/rounds/r1/cancel"), client.post("/api/v1/rounds/r1/cancel")
    assert first.json() == {"round": "r1", "state": "cancelled", "changed": True}
    assert second.json() == {"round": "r1", "state": "cancelled", "changed": False}

    assert client.post("/api/v1/rounds/r1/retry").json() == {
        "round": "r1",
        "state": "active",
        "changed": True,
    }
    rig.run_all({}, at=datetime.now(UTC))
    assert client.post("/api/v1/rounds/r1/retry").json() == {
        "round": "r1",
        "state": "finished",
        "changed": False,
    }
    kinds = [each["event"] for each in events(client.get("/api/v1/rounds/r1/events").text)]
    assert [kind for kind in kinds if kind in ("cancelled", "retried")] == ["cancelled", "retried"]
    assert client.post("/api/v1/rounds/none/cancel").status_code == 404


def test_submit__paths_outside_the_data_folders(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client()
    inside, outside = tmp_path / "data" / "s.txt", tmp_path / "secret.txt"
    outside.write_text("x")
    (tmp_path / "data" / "link.txt").symlink_to(outside)
    inside.write_text("1234341221434321\n" * 60)

    def send(path: str, checkpoint: Any = None) -> Any:
        task = {"kind": "sudoku", "size": 4, "blanks": 4, "train": 4, "val": 2, "data": {"path": path}}
        changes: dict[str, Any] = {"tasks": {"s4": task}}
        if checkpoint:
            changes["model"] = {"checkpoint": checkpoint, "tokenizer": "bytes"}
        return client.post("/api/v1/rounds?dry_run=true", content=body(**changes), headers=YAML)

    for path in ("/etc/passwd", "../secret.txt", str(outside), "link.txt", "../nowhere.txt"):
        response = send(path)
        assert response.status_code == 422
        (found,) = problem(response)["problems"]
        assert (found["path"], "lead" in found["message"]) == ("tasks.s4.data.path", True)
    for checkpoint in ("/etc/passwd", "~/model.pth"):
        assert problem(send("s.txt", checkpoint))["problems"][0]["path"] == "model.checkpoint"
    assert (
        "of them" not in problem(send("missing.txt"))["detail"]
    )  # inside: it may be said that it is missing


def test_submit__a_body_of_unknown_length_that_is_too_long(client: TestClient) -> None:
    chunks = (b"x" * 100_000 for _ in range(20))
    response = client.post("/api/v1/rounds", content=chunks, headers=YAML)
    assert (response.status_code, problem(response)["detail"]) == (413, "a body has at most 1,000,000 bytes")


def test_submit__a_client_that_goes_away(client: TestClient) -> None:
    incoming = [{"type": "http.request", "body": b"round: ", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/rounds",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/yaml")],
    }

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    with capture_logs() as logs:
        asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]

    assert sent[0]["status"] == 400
    assert [line["event"] for line in logs] == ["request"]  # and no "request failed"


def test_get_round__once_its_parent_is_tried_again(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.submit(resolve(tmp_path, round="r2", after={"round": "r1"}))
    client.post("/api/v1/rounds/r1/cancel")
    first = client.get("/api/v1/rounds/r2")
    assert first.json()["state"] == "blocked"

    client.post("/api/v1/rounds/r1/retry")

    assert (
        client.get("/api/v1/rounds/r2", headers={"If-None-Match": first.headers["etag"]}).status_code == 200
    )
    assert client.get("/api/v1/rounds/r2").json()["state"] == "waiting"


def test_submit__more_jobs_than_a_round_may_have(client: TestClient) -> None:
    response = client.post(
        "/api/v1/rounds",
        content=body(
            seeds=list(range(9000)), variants={"grid": {"layer_start": [1, 2], "alpha_init": [-1, -2, -3]}}
        ),
        headers=YAML,
    )
    assert "126,000 jobs; a round has at most 100,000" in problem(response)["detail"]


def test_submit__the_day_is_the_client_s(client: TestClient) -> None:
    response = client.post("/api/v1/rounds?today=2030-01-02", content=body(round="n_{date}"), headers=YAML)
    assert response.json()["round"] == "n_2030-01-02"
    again = client.post(
        "/api/v1/rounds?today=2030-01-02&after=n_{date}",
        content=body(round="m_{date}", seeds=[3]),
        headers=YAML,
    )
    assert again.json() == {"round": "m_2030-01-02", "state": "waiting", "is_new": True}
