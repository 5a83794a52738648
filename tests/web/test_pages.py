"""The pages as a program sees them, on both databases: statuses, headers, what each user may do."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from structlog.testing import capture_logs

from db.session import Database
from db.tables import Decision, Job, Round, RoundState, Worker
from orchestrator import engine
from orchestrator.findings.caveats import Caveat
from orchestrator.findings.records import records
from orchestrator.rounds import stored_round
from orchestrator.web import overview, shown_decisions
from orchestrator.web.sessions import own_path
from orchestrator.web.shown_decisions import TaskDecisions
from tests.api.conftest import MakeClient, token
from tests.orchestrator.factories import NOW, Rig, resolve, result
from tests.web.conftest import claim, end, evaluate
from worker.job import JobResult, Outcome

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where no query matters
FORM = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}


def finished(database: Database, folder: Path) -> Rig:
    """Round r1 with l1 promoted at both stages."""
    rig = Rig(database)
    rig.submit(resolve(folder))
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.5})
    return rig


def sign_in(client: TestClient, text: str) -> None:
    response = client.post("/login", data={"token": text}, headers=FORM)
    assert (response.status_code, response.headers["location"]) == (303, "/")


def found_on(database: Database, name: str, task: str) -> TaskDecisions:
    with database.read() as session:
        row = stored_round.find(session, name)
        return shown_decisions.of_task(session, row.id, stored_round.resolve(row), task)


@on_sqlite
def test_pages__with_nothing_to_show(client: TestClient) -> None:
    assert "No rounds yet" in client.get("/").text
    assert "No worker yet" in client.get("/workers").text


def test_pages__of_a_finished_round(client: TestClient, database: Database, tmp_path: Path) -> None:
    finished(database, tmp_path)

    for path in ("/rounds/r1", "/rounds/r1/jobs", "/rounds/r1/decisions?task=s4", "/jobs/1", "/workers"):
        response = client.get(path)
        assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert 'lang="en"' in response.text


def test_pages__known_ones_are_not_sent_again(client: TestClient, database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    for path in ("/", "/rounds/r1/jobs"):
        tag = client.get(path).headers["etag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
        rig.run_next(result(0.2))
        rig.run_next(result(0.2))
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_rounds__pages_and_filter(client: TestClient, database: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    with database.write() as session:
        engine.submit(session, resolved, "", by="me", now=NOW)
        row = stored_round.find(session, "r1")
        session.add_all(_copy(row, number) for number in range(120))

    def names(path: str) -> list[str]:
        text = client.get(path).text
        return [part.partition('"')[0] for part in text.split('<h2><a href="/rounds/')[1:]]

    assert (names("/")[0], len(names("/"))) == ("r119", 50)
    older = _link(client.get("/").text, "next")
    oldest = _link(client.get(older).text, "next")
    assert (names(older)[0], names(oldest)[-1], len(names(oldest))) == ("r69", "r1", 21)
    assert names(_link(client.get(oldest).text, "prev")) == names(older)
    assert names(_link(client.get(older).text, "prev")) == names("/")
    assert names("/?state=active") == ["r1"]
    assert "No rounds here" in client.get("/?state=blocked").text


def _copy(row: Round, number: int) -> Round:
    kept = {name: getattr(row, name) for name in ("source", "spec", "facts", "created_at", "finished_at")}
    return Round(name=f"r{number}" if number != 1 else "one", digest="x", state=RoundState.FINISHED, **kept)


def _link(text: str, rel: str) -> str:
    return text.split(f'rel="{rel}" href="')[1].partition('"')[0].replace("&amp;", "&")


@on_sqlite
@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/rounds/none", 404, "there is no round named &#39;none&#39;"),
        ("/rounds/none/jobs", 404, "there is no round"),
        ("/jobs/999", 404, "there is no job 999"),
        ("/jobs/x", 422, "path.job_id"),
        ("/?after=x", 422, "query.after"),
        ("/nowhere", 404, "Not Found"),
        ("/static/none.css", 404, "Not Found"),
        ("/rounds/a%3Cb%3E", 422, "path.name"),
        ("/rounds/none/decisions?task=%00", 422, "query.task"),
        ("/rounds/none/cancel", 404, "there is no round"),
    ],
)
def test_errors__are_pages(client: TestClient, path: str, status: int, words: str) -> None:
    response = client.get(path)

    assert (response.status_code, response.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert words in response.text


@on_sqlite
def test_errors__of_the_api_stay_problems(client: TestClient) -> None:
    for path in ("/api/v1/rounds/none", "/api/v1/nowhere"):
        assert client.get(path).headers["content-type"] == "application/problem+json"


@on_sqlite
def test_errors__a_defect_is_a_page(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("orchestrator.views.lookup.workers", broken)
    with capture_logs() as said:
        response = make_client(raise_server_exceptions=False).get("/workers")

    assert response.status_code == 500
    assert "a defect of fsq" in response.text
    assert "secret" not in response.text
    assert "request failed" in {line["event"] for line in said}


@on_sqlite
def test_sign_in__only_where_tokens_are_needed(client: TestClient) -> None:
    assert "Sign out" not in client.get("/").text
    assert client.get("/login?next=/workers").headers["location"] == "/workers"


@on_sqlite
def test_sign_in__cookie(make_client: MakeClient, database: Database) -> None:
    text = token(database, "read")
    client = make_client(is_open=False)

    assert client.get("/rounds/r1?x=%26").headers["location"] == "/login?next=/rounds/r1%3Fx%3D%2526"
    wrong = client.post("/login", data={"token": "fsq_1_no"}, headers=FORM)
    assert (wrong.status_code, "not valid" in wrong.text, "set-cookie" in wrong.headers) == (401, True, False)
    right = client.post("/login", data={"token": f" {text} ", "next": "/workers"}, headers=FORM)
    assert (right.status_code, right.headers["location"]) == (303, "/workers")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "expires=" in cookie
    assert "Secure" not in cookie
    assert client.get("/").status_code == 200
    out = client.post("/logout", headers=FORM)
    assert (out.headers["location"], client.get("/").status_code) == ("/login", 303)


@on_sqlite
def test_sign_in__by_https_the_cookie_is_secure(make_client: MakeClient, database: Database) -> None:
    client = make_client(is_open=False)
    origin = FORM | {"Origin": "https://127.0.0.1"}  # as a browser says it before a proxy that speaks https

    response = client.post("/login", data={"token": token(database, "read")}, headers=origin)

    assert "Secure" in response.headers["set-cookie"]


@on_sqlite
def test_sign_in__never_leads_elsewhere(make_client: MakeClient, database: Database) -> None:
    client = make_client(is_open=False)
    for wanted in ("//evil.example", "//["):
        assert client.get("/login", params={"next": wanted}).status_code == 200
        form = {"token": token(database, "read", wanted), "next": wanted}
        response = make_client(is_open=False).post("/login", data=form, headers=FORM)
        assert response.headers["location"] == "/"


ELSEWHERE = (
    r"https://evil.example //evil.example ///evil.example /\evil.example \\evil.example javascript:x evil "
    r"//[ http://[ [ //evil.example]"
)


@pytest.mark.parametrize("wanted", [*ELSEWHERE.split(), "/\n/evil.example", "/\t/evil.example", ""])
def test_own_path__nothing_else(wanted: str) -> None:
    assert own_path(wanted) == "/"


def test_own_path__keeps_what_is_ours() -> None:
    assert own_path("/rounds/r1?x=1#y") == "/rounds/r1?x=1#y"


@on_sqlite
@pytest.mark.parametrize("path", ["/login", "/logout", "/rounds/r1/cancel"])
@pytest.mark.parametrize("foreign", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_posts__from_elsewhere_are_refused(client: TestClient, path: str, foreign: dict[str, str]) -> None:
    assert client.post(path, headers=foreign).status_code == 403


def test_actions__by_scope_and_owner(make_client: MakeClient, database: Database, tmp_path: Path) -> None:
    Rig(database).submit(resolve(tmp_path))  # by "me"
    users = {"reader": "read", "other": "submit", "me": "submit", "boss": "admin"}
    offered, allowed = {}, {}
    for name, scope in users.items():
        client = make_client(is_open=False)
        sign_in(client, token(database, scope, name))
        offered[name] = "Cancel …" in client.get("/rounds/r1").text
        allowed[name] = client.get("/rounds/r1/cancel").status_code
        if name != "me":
            refused = client.post("/rounds/r1/cancel", headers=FORM).status_code
            assert refused == (303 if name == "boss" else 403)

    assert offered == {"reader": False, "other": False, "me": True, "boss": True}
    assert allowed == {"reader": 403, "other": 403, "me": 200, "boss": 200}
    assert "cancelled by boss" in client.get("/rounds/r1").text
    assert client.post("/rounds/r1/retry", headers=FORM).headers["location"] == "/rounds/r1"
    assert client.post("/rounds/r1/explode", headers=FORM).status_code == 422


@on_sqlite
def test_retry__is_offered_where_something_failed(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too big"))

    text = client.get("/rounds/r1").text
    assert "Retry …" in text
    assert "the quick baseline failed: oom: too big" in text


@on_sqlite
def test_retry__of_a_round_that_is_held_up(client: TestClient, database: Database, tmp_path: Path) -> None:
    round_id = Rig(database).submit(resolve(tmp_path))
    with database.write() as session:
        session.get_one(Round, round_id).reason = "its rule is gone"

    assert "its rule is gone" in client.get("/rounds/r1").text
    assert client.get("/rounds/r1/retry").status_code == 200
    assert client.post("/rounds/r1/retry", headers=FORM).status_code == 303
    assert "its rule is gone" not in client.get("/rounds/r1").text


@on_sqlite
def test_file__as_submitted(client: TestClient, database: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    with database.write() as session:
        engine.submit(session, resolved, "round: r1  # mine\n", by="me", now=NOW)

    response = client.get("/rounds/r1/file")

    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "round: r1  # mine\n"


def test_findings__the_caveats_of_the_records(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(result(0.3))
    rig.run_next(result(0.6, distinct=1, steps=9))
    rig.run_all({("quick", "l2"): 0.9})

    found = found_on(database, "r1", "s4")

    kept = {
        (one["decided_stage"], one["config"]): one["caveats"]
        for one in records(database, "r1")
        if one["stage"] == "decision"
    }
    assert {(one.key.stage, one.key.variant): one.caveats for one in found.shown} == kept
    assert "l1" in found.doubts[Caveat.DEGENERATE]
    assert found.total == len(kept)


def test_findings__only_the_best_where_there_are_many(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_decisions, "SHOWN", 2)
    variants = {f"l1_{number}": {"layer_start": 1, "alpha_init": -number} for number in (1, 2, 3)}
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants=variants | {"noop": {"layer_start": 9}}))
    rig.run_all({("quick", "l1_1"): 0.1, ("quick", "l1_2"): 0.2, ("quick", "l1_3"): 0.15}, default=0.2)

    found = found_on(database, "r1", "s4")

    assert (found.chart.variants, len(found.shown), found.total) == (("l1_2", "l1_3"), 2, 4)


@on_sqlite
def test_findings__what_came_furthest_and_did_best_there(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what gained most at first and was rejected then; nor the control arm."""
    monkeypatch.setattr(shown_decisions, "SHOWN", 4)
    variants = {f"l1_{number}": {"layer_start": 1, "alpha_init": -number} for number in (1, 2, 3)}
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants=variants | {"good": {"layer_start": 2}}, control="aa"))
    luck = {("quick", name): 0.7 for name in (*variants, "aa")} | {("med", name): 0.4 for name in variants}
    rig.run_all(luck | {("med", "aa"): 0.9, ("quick", "good"): 0.55, ("med", "good"): 0.55}, default=0.5)

    found = found_on(database, "r1", "s4")

    assert found.chart.variants == ("l1_1", "good")
    assert found.total == 10


@on_sqlite
def test_job__without_a_log_here(client: TestClient, database: Database, tmp_path: Path) -> None:
    finished(database, tmp_path)
    with database.read() as session:
        job = session.query(Job.id).first()

    assert "Its log is not on this machine." in client.get(f"/jobs/{job[0] if job else 0}").text


def page_of(client: TestClient, path: str) -> str:
    """A page's text, without tags and with single spaces."""
    response = client.get(path)
    assert response.status_code == 200
    return " ".join(re.sub("<[^>]+>", " ", response.text.partition("<main")[2]).split())


def fail_next(rig: Rig) -> None:
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too big"))


@on_sqlite
def test_job__says_what_was_decided(client: TestClient, database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(result(0.2))
    lease = claim(rig)
    evaluate(rig, lease, 2)
    assert "Best accuracy 22.00%" in page_of(client, f"/jobs/{lease.job_id}")
    end(rig, lease, result(0.3))

    text = page_of(client, f"/jobs/{lease.job_id}")

    assert "Decision promoted +10.00 pp reaches +0.10 pp" in text
    assert "Variant minus baseline +10.00 pp" in text
    assert "Keep in mind at chance , below resolution , not significant , single seed" in text
    assert "so far" not in text
    assert "Decision" not in page_of(client, "/jobs/1")  # a baseline


@on_sqlite
def test_job__that_failed_was_never_evaluated(client: TestClient, database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    fail_next(rig)

    assert "It was never evaluated." in page_of(client, "/jobs/1")


@on_sqlite
def test_round__verdicts_by_stage(client: TestClient, database: Database, tmp_path: Path) -> None:
    finished(database, tmp_path)

    for path in ("/", "/rounds/r1"):
        assert "3 of 3 arms judged quick: 1 promoted 1 pruned 1 no-op med: 1 promoted" in page_of(
            client, path
        )


@on_sqlite
def test_round__deltas_with_intervals_and_the_noise_floor(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, control="aa", prune={"rule": "evidence", "max_seeds": 2}))
    rig.run_all({("quick", "l1", 0): 0.3, ("quick", "l1", 1): 0.25, ("quick", "aa"): 0.3})
    with database.read() as session:
        (low, high), *_ = (
            one.evidence["d_acc_ci"]
            for one in session.scalars(select(Decision).where(Decision.variant == "l1"))
            if one.evidence is not None
        )
        at_quick = (Job.variant == "l1", Job.stage == "quick", Job.seed == 1)
        job = session.scalars(select(Job.id).where(*at_quick)).one()
    shown = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    for path in ("/rounds/r1", "/rounds/r1/decisions", f"/jobs/{job}"):
        assert shown in page_of(client, path)
    text = page_of(client, "/rounds/r1")
    assert "2 seeds, 2+/0=/0-" in text
    assert "Noise floor the baseline under another seed was promoted 1 of 1 times" in text
    assert "by the rule evidence" in text


@on_sqlite
def test_round__in_which_nothing_was_measured(client: TestClient, database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    fail_next(rig)

    for path in ("/", "/rounds/r1"):
        text = page_of(client, path)
        assert "finished, nothing measured" in text
        assert "1 of 3 arms judged, 2 undecided" in text


@on_sqlite
def test_round__whose_variants_are_yet_to_come(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.submit(resolve(tmp_path, round="next", variants={"from": "r1", "top": 2}))

    text = page_of(client, "/rounds/next")
    assert "Variants the best 2 of r1, not known yet" in text
    assert "arms judged" not in text
    assert "planned" not in client.get("/rounds/next").text
    assert "Its variants are not known yet." in page_of(client, "/")
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.5})
    assert "Variants 1 " in page_of(client, "/rounds/next")


@on_sqlite
def test_round__a_worker_that_fell_silent(client: TestClient, database: Database, tmp_path: Path) -> None:
    rig = Rig(database)  # last seen in January
    rig.submit(resolve(tmp_path))
    claim(rig)
    assert "On h silent , last seen" in page_of(client, "/rounds/r1")
    assert "Runs on h silent , last seen" in page_of(client, "/jobs/1")

    with database.write() as session:  # which is no event
        session.get_one(Worker, rig.worker_id).seen_at = datetime.now(UTC)

    assert "On h, seen just now" in page_of(client, "/rounds/r1")


@on_sqlite
def test_round__of_many_tasks_draws_the_first(
    client: TestClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "CHARTED", 1)
    task = {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}
    rig = Rig(database)
    rig.submit(
        resolve(tmp_path, tasks={"a": task, "b": task | {"blanks": 5}}, variants={"noop": {"layer_start": 9}})
    )
    rig.run_all({})

    text = client.get("/rounds/r1").text
    assert [name in text for name in ("decisions?task=a", "decisions?task=b")] == [False, True]
    while "data-waiting" in (text := client.get("/rounds/r1/decisions?task=b").text):
        pass
    assert "<svg" in text


@on_sqlite
def test_ended__says_so_and_looks_again(client: TestClient, database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    assert "Nothing is decided yet." in client.get("/rounds/r1").text
    assert "data-stream" in client.get("/rounds/r1").text
    assert client.post("/rounds/r1/cancel", headers=FORM).status_code == 303

    text = client.get("/rounds/r1").text
    assert "Nothing was decided." in text
    assert 'data-poll="15"' in text
    assert "data-stream" not in text
    for path in ("/jobs/1", "/rounds/r1/decisions", "/rounds/r1/jobs"):
        assert 'data-poll="15"' in client.get(path).text


@on_sqlite
def test_actions__where_there_is_nothing_to_do(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    finished(database, tmp_path)

    for action, why in (("cancel", "it has ended"), ("retry", "everything that has ended was measured")):
        response = client.get(f"/rounds/r1/{action}")
        assert response.status_code == 409
        assert f"there is nothing to {action} in round r1: {why}" in response.text


@on_sqlite
def test_rounds__the_list_counts_rounds_only(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("orchestrator.views.lookup.status")

    assert client.get("/").status_code == 200
