"""Real servers: what they refuse, live events, the command line over HTTP, and how they stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from typing import NamedTuple

import httpx2 as httpx
import pytest

from tests.acceptance.conftest import FSQ, Fsq, environment_in, lasting, records_of, write_round

EVERYWHERE = "0.0.0.0"  # noqa: S104
# long enough to be interrupted after its first evaluation
LONG = {
    "stages": [{"name": "quick", "steps": 40, "eval_every": 5}],
    "variants": {"l1": {"layer_start": 1, "norm": False}},
}


@contextmanager
def serving(environment: dict[str, str], *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port: its URL and its process."""
    command = [str(FSQ), "serve", "--port", "0", "--log-format", "json", *arguments]
    with (
        TemporaryFile("w+") as log,
        subprocess.Popen(command, env=environment, stderr=log, text=True) as server,
    ):
        try:
            while not (line := os.pread(log.fileno(), 1000, 0).partition(b"\n"))[1]:
                assert server.poll() is None
                time.sleep(0.05)
            yield json.loads(line[0])["url"], server
        finally:
            server.kill()


def test_serve__refuses_to_be_reached_without_tokens(fsq: Fsq) -> None:
    for arguments in (["--host", EVERYWHERE], ["--allow-host", "fsq.example"]):
        done = fsq("serve", "--port", "0", *arguments)
        assert done.returncode == 2
        assert "it needs tokens, and there is none that is valid" in done.stderr
        assert "fsq token create" in done.stderr


def test_serve__address_of_another_machine_and_port_in_use(fsq: Fsq, environment: dict[str, str]) -> None:
    assert fsq("token", "create", "me").returncode == 0
    assert fsq("serve", "--host", "192.0.2.1").returncode == 2
    with serving(environment) as (url, _):
        done = fsq("serve", "--port", url.rpartition(":")[2])
        assert (done.returncode, "cannot listen on 127.0.0.1 port" in done.stderr) == (4, True)


def test_token__is_not_made_where_the_server_would_never_see_it(fsq: Fsq) -> None:
    away = {"FSQ_SERVER": "http://127.0.0.1:9", "FSQ_DATABASE_URL": ""}
    for command in (("create", "me"), ("list",), ("revoke", "me")):
        refused = fsq("token", *command, env=away)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "FSQ_DATABASE_URL to that of the server" in refused.stderr
    drained = fsq("work", "--drain", "--device", "cpu", env=away)
    assert drained.returncode == 0
    assert "takes its jobs from this machine's database" in drained.stderr


def test_token__life(fsq: Fsq, environment: dict[str, str]) -> None:
    made = fsq("token", "create", "laptop", "--scope", "submit", "--expires", "30d")
    text = made.stdout.strip()
    assert re.fullmatch(r"fsq_1_[A-Za-z0-9_-]{43}", text)
    assert fsq("token", "create", "laptop").returncode == 4
    assert fsq("token", "create", "other", "--expires", "soon").returncode == 2
    (listed,) = json.loads(fsq("token", "list", "--json").stdout)
    assert (listed["name"], listed["scope"], listed["is_valid"]) == ("laptop", "submit", True)
    secret = text.split("_", 2)[2]  # which may have such a character itself
    assert secret not in fsq("token", "list").stdout

    with serving(environment, "--host", EVERYWHERE) as (url, _):
        url = url.replace(EVERYWHERE, "127.0.0.1")
        server = {"FSQ_SERVER": url}
        refused = fsq("status", env=server)
        assert (refused.returncode, "needs a token" in refused.stderr) == (4, True)
        assert fsq("status", env=server | {"FSQ_TOKEN": text}).returncode == 0
        assert fsq("token", "revoke", "laptop").returncode == 0
        assert fsq("status", env=server | {"FSQ_TOKEN": text}).returncode == 4
    assert fsq("token", "revoke", "nobody").returncode == 3


def test_commands__over_http_as_on_the_database(
    fsq: Fsq, environment: dict[str, str], tmp_path: Path
) -> None:
    path = write_round(tmp_path)
    with serving(environment) as (url, _):
        over = {"FSQ_SERVER": url, "FSQ_HOME": str(tmp_path / "elsewhere")}
        assert fsq("submit", path, "--dry-run", env=over).stdout == fsq("submit", path, "--dry-run").stdout
        assert fsq("plan", path, env=over).stdout == fsq("plan", path).stdout
        submitted = fsq("submit", path, env=over)
        assert (submitted.returncode, submitted.stderr) == (0, "small: submitted\n")
        assert fsq("submit", path, env=over).stderr == "small: known already\n"
        assert fsq("run", path, env=over).returncode == 2
        assert fsq("work", "--drain").returncode == 0

        taken, wrong = tmp_path / "taken", tmp_path / "wrong"
        taken.mkdir()
        wrong.mkdir()
        for command in (
            ["status"],
            ["status", "--json"],
            ["status", "small"],
            ["status", "small", "--json"],
            ["status", "none"],
            ["status", "a b"],
            ["cancel", "../workers?"],
            ["export", "small"],
            ["export", "small", "--format", "csv"],
            ["export", "small", "--format", "summary"],
            ["export", "none"],
            ["workers", "--json"],
            ["cancel", "small"],
            ["retry", "small"],
            ["submit", str(write_round(taken, seeds=[4]))],
            ["submit", str(write_round(wrong, modle={}))],
            ["plot", "small", "-o", str(tmp_path / "small.pdf")],
        ):
            here, there = fsq(*command), fsq(*command, env=over)
            assert (there.returncode, there.stdout, there.stderr) == (
                here.returncode,
                here.stdout,
                here.stderr,
            )
        drawn = [tmp_path / "here.svg", tmp_path / "there.svg"]
        assert fsq("plot", "small", "-o", drawn[0]).returncode == 0
        assert fsq("plot", "small", "-o", drawn[1], env=over).returncode == 0
        assert drawn[0].read_bytes() == drawn[1].read_bytes()
        files = fsq("export", "small", "-o", tmp_path / "out", env=over).stdout.split()
        assert Path(files[0]).read_text() == fsq("export", "small").stdout
        assert lasting(records_of(fsq, env=over)) == lasting(records_of(fsq))
    assert fsq("status", env=over).returncode == 5  # nobody is there any more


class Undisturbed(NamedTuple):
    """The LONG round, worked off, and watched through a server meanwhile."""

    env: dict[str, str]
    seen: list[tuple[str, bool]]  # kinds of events, and whether the worker was still at work


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    environment = environment_in(folder / "home")
    subprocess.run([FSQ, "submit", write_round(folder, **LONG)], env=environment, check=True)
    seen: list[tuple[str, bool]] = []
    with (
        serving(environment) as (url, _),
        subprocess.Popen([FSQ, "work", "--drain"], env=environment) as worker,
    ):
        with httpx.stream("GET", f"{url}/api/v1/rounds/small/events", timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("event: "):
                    seen.append((line.removeprefix("event: "), worker.poll() is None))
        assert worker.wait() == 0
    return Undisturbed({"FSQ_HOME": str(folder / "home")}, seen)


def test_events__arrive_while_the_round_runs(undisturbed: Undisturbed) -> None:
    kinds = [kind for kind, _ in undisturbed.seen]
    assert (kinds[:2], kinds[-1]) == (["submitted", "started"], "finished")
    assert kinds.count("evaluated") >= 2 * 5
    assert ("evaluated", True) in undisturbed.seen  # not only once it was over


def test_serve__ends_its_streams_and_itself_on_sigterm(
    fsq: Fsq, environment: dict[str, str], tmp_path: Path
) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    with (
        serving(environment) as (url, server),
        httpx.stream("GET", f"{url}/api/v1/rounds/small/events", timeout=60) as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == "event: submitted"
        begin = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) in (0, -signal.SIGTERM)
        assert time.monotonic() - begin < 5
        list(lines)  # the stream was ended, not cut


def test_work__hands_its_job_back_on_sigterm(
    fsq: Fsq, environment: dict[str, str], tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """Whatever it was doing: the round ends with the numbers of an undisturbed one."""
    assert fsq("submit", write_round(tmp_path, **LONG)).returncode == 0
    command = [FSQ, "work", "--log-format", "json"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        next(line for line in worker.stderr if json.loads(line)["event"] == "evaluated")
        worker.send_signal(signal.SIGTERM)
        rest = worker.stderr.read()
        assert (worker.wait(timeout=30), "goes back to the queue" in rest) == (0, True)
    (job,) = json.loads(fsq("status", "small", "--json").stdout)["jobs"]
    assert (job["state"], job["attempts"]) == ("queued", 0)
    assert json.loads(fsq("workers", "--json").stdout)["workers"][0]["state"] == "stopped"

    assert fsq("work", "--drain").returncode == 0
    assert lasting(records_of(fsq)) == lasting(records_of(fsq, env=undisturbed.env))


def test_workers__alive_on(fsq: Fsq, environment: dict[str, str]) -> None:
    here = socket.gethostname()
    assert fsq("workers", "--alive-on", here).returncode == 1
    with subprocess.Popen([FSQ, "work"], env=environment) as worker:
        deadline = time.monotonic() + 30
        while fsq("workers", "--alive-on", here).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert fsq("workers", "--alive-on", "another").returncode == 1
        worker.terminate()
        assert worker.wait(timeout=30) == 0
    assert fsq("workers", "--alive-on", here).returncode == 1


@pytest.mark.parametrize(
    ("server", "code"),
    [
        ("http://127.0.0.1:1", 5),
        ("nonsense", 2),
        ("ftp://127.0.0.1", 2),
        ("http://[", 2),
        ("http://", 2),
        ("http://user:secret@127.0.0.1:1", 2),
    ],
)
def test_client__server_that_is_not_there(fsq: Fsq, server: str, code: int) -> None:
    done = fsq("status", env={"FSQ_SERVER": server})
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("token", ["wrong", "fsq_1_" + "é" * 43, "fsq_1_" + "A" * 20])
def test_client__token_that_is_none(fsq: Fsq, token: str) -> None:
    done = fsq("status", env={"FSQ_SERVER": "http://127.0.0.1:1", "FSQ_TOKEN": token})
    assert (done.returncode, done.stderr) == (
        2,
        "fsq: FSQ_TOKEN is no token; they look like fsq_1_... (`fsq token create`)\n",
    )


class _Other(BaseHTTPRequestHandler):
    """A server that is something else."""

    def do_GET(self) -> None:
        status, kind, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize(
    "answer",
    [
        (200, "text/html", b"<p>Welcome</p>"),
        (302, "text/html", b""),
        (404, "text/html", b"nothing here"),
        (200, "application/json", b'{"other": 1}'),
        (422, "application/json", b"[]"),
        (502, "text/html", b"<p>Bad gateway</p>"),
    ],
)
def test_client__server_of_another_kind(fsq: Fsq, tmp_path: Path, answer: tuple[int, str, bytes]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Other) as other:
        other.answer = answer  # type: ignore[attr-defined]
        Thread(target=other.serve_forever, daemon=True).start()
        server = {"FSQ_SERVER": f"http://127.0.0.1:{other.server_address[1]}"}
        for command in (
            ["status"],
            ["status", "r"],
            ["workers"],
            ["export", "r", "-o", str(tmp_path / "out")],
        ):
            done = fsq(*command, env=server)
            assert (done.returncode, done.stdout) == (5, ""), command  # it is not the server that was meant
            assert done.stderr.startswith("fsq: "), done.stderr
            assert done.stderr.count("\n") == 1
            assert "Traceback" not in done.stderr
        other.shutdown()
    assert not (tmp_path / "out").exists()
