"""A real server process on a real database, and a real browser; one of each for all tests of this folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from sqlalchemy import delete

from db import queue, tokens
from db.queue import Lease
from db.session import Database, open_current
from db.tables import Job, Round, RoundState
from orchestrator import engine
from orchestrator.api.access import COOKIE
from tests.api.conftest import client, make_client  # noqa: F401  (fixtures)
from tests.claims import take_next
from tests.orchestrator.factories import Rig, resolve, result
from worker.job import JobResult, run_dir

FSQ = Path(sys.executable).with_name("fsq")
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = """<script>document.title = "owned"</script> "quoted" & 'single'"""
PATIENCE_MS = 15_000  # the machine may be busy with other tests

OpenPage = Callable[..., Page]


@dataclass(frozen=True)
class Site:
    """A server, its database and the tokens that it takes."""

    address: str
    database: Database
    rig: Rig
    tokens: dict[str, str]


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("home")
    database = open_current(f"sqlite:///{home / 'fsq.db'}")
    rig = fill(database, home)
    made = {scope: _token(database, scope) for scope in ("read", "submit", "admin")}
    with serving(home) as address:
        yield Site(address, database, rig, made)
    database.close()


def fill(database: Database, home: Path) -> Rig:
    """`done` has finished, `running` is at a job, `odd` is blocked for a reason that looks like a script."""
    rig = Rig(database)
    rig.submit(resolve(home, round="done"))
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.5})
    rig.submit(resolve(home, round="running", seeds=[1]))
    rig.run_next(result(0.3))
    lease = claim(rig)
    for step in (2, 4):
        evaluate(rig, lease, step)
    with database.write() as session:
        job = session.get_one(Job, lease.job_id)
        folder = home / run_dir("running", job.task, job.stage, job.variant, job.seed)
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("".join(f"step {step} loss 1.2345\n" for step in range(200)))
    odd = rig.submit(resolve(home, round="odd", seeds=[2]))
    with database.write() as session:
        row = session.get_one(Round, odd)
        row.state, row.reason = RoundState.BLOCKED, HOSTILE
        session.execute(delete(Job).where(Job.round_id == odd))
    return rig


def claim(rig: Rig) -> Lease:
    """The next job begins to run."""
    now = datetime.now(UTC)
    with rig.database.write() as session:
        lease = take_next(session, worker_id=rig.worker_id, now=now, lease_for=timedelta(hours=1))
    assert lease is not None
    return lease


def evaluate(rig: Rig, lease: Lease, step: int) -> None:
    """A running job is evaluated."""
    values = {"seconds": 1.0, "tokens": 100, "train_loss": 1.5, "val_loss": 1.4, "val_seq_acc": 0.1}
    counted = {"val_tok_acc": 0.2 + step / 100, "distinct_predictions": 4, "correct": [1, 2]}
    with rig.database.write() as session:
        told = {"step": step} | values | counted
        queue.record_evaluations(session, lease, [told], now=datetime.now(UTC))


def end(rig: Rig, lease: Lease, ended: JobResult) -> None:
    """A running job ends."""
    now = datetime.now(UTC)
    with rig.database.write() as session:
        stored = ended.model_dump(mode="json")
        queue.complete(session, lease, now=now, outcome=ended.outcome, reason=ended.reason, result=stored)
    with rig.database.write() as session:
        engine.advance_job(session, lease.job_id, now=now)


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """A server on this machine; gives its address."""
    environment = {"FSQ_HOME": str(home), "PATH": os.environ["PATH"]}
    command = [str(FSQ), "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        try:
            found = (re.search(r"http://[\w.]+:\d+", line) for line in server.stdout)
            yield next(address[0] for address in found if address)
        finally:
            server.terminate()
            server.stdout.read()


def _token(database: Database, scope: str) -> str:
    now = datetime.now(UTC)
    with database.write() as session:
        return tokens.create(session, scope, scope, now=now, expires_at=now + timedelta(days=1))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Observed:
    """What a page asked for and complained about."""

    urls: list[str]
    complaints: list[str]


@pytest.fixture
def observed() -> Observed:
    return Observed([], [])


@pytest.fixture
def open_page(browser: Browser, site: Site, observed: Observed) -> Iterator[OpenPage]:
    """Opens a path of the site, signed in with a token of a scope, in a browser profile of its own."""
    contexts: list[BrowserContext] = []

    def call(path: str, *, scope: str | None = "admin", **options: object) -> Page:
        context = browser.new_context(base_url=site.address, **options)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        if scope is not None:
            context.add_cookies([{"name": COOKIE, "value": site.tokens[scope], "url": site.address}])
        page = context.new_page()
        page.on("request", lambda request: observed.urls.append(request.url))
        page.on(
            "console",
            lambda said: observed.complaints.append(said.text) if said.type in {"error", "warning"} else None,
        )
        page.on("pageerror", lambda error: observed.complaints.append(str(error)))
        page.goto(path)
        return page

    yield call
    for context in contexts:
        context.close()
