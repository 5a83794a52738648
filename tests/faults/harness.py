"""A night of work in real processes, to be disturbed, and what must be true of it in the morning.

The measure is crash equivalence: whatever happened, the exported records are those of an undisturbed run, byte for
byte, but for times, ids, device and counts of attempts.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from db.events import EventKind
from db.session import Database, open_current
from db.tables import Event, Job, JobState, Round, RoundState
from orchestrator.findings import exports
from orchestrator.intake import Intake
from worker.preparation import prepare

FSQ = Path(sys.executable).with_name("fsq")

VARYING = {"started_at", "finished_at", "seconds", "device", "attempts"}
TRANSIENT = {"fsq.db-wal", "fsq.db-shm"}  # SQLite's own, there while the database is open

PATIENCE_SECONDS = 60.0  # for something to happen
LONGEST_RUN_SECONDS = 600.0  # of a process that ends of itself
POLL_SECONDS = 0.02


class Program:
    """A process of the night; what it says goes to a file."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.pid = self._process.pid
        self._read = 0  # bytes of the output
        self._lines: list[dict[str, Any]] = []

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far, a mapping for each line; what is no JSON is left out."""
        with self._output.open("rb") as file:
            file.seek(self._read)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._read += len(complete) + len(newline)
        self._lines += filter(None, map(_parsed, complete.splitlines()))
        return self._lines

    def count(self, event: str, **fields: Any) -> int:
        """How often it logged an event with these fields."""
        wanted = {"event": event} | fields
        return sum(wanted.items() <= line.items() for line in self.lines())

    def child(self) -> int | None:
        """The process that trains for this worker."""
        return next((pid for pid in children_of(self.pid) if b"worker.child" in _read(pid, "cmdline")), None)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Asks it to end, and gives its exit code."""
        self._process.terminate()
        return self.wait(PATIENCE_SECONDS)

    def finish(self) -> None:
        """Waits for it to end of itself, with success."""
        code = self.wait()
        assert code == 0, self.text()[-4000:]

    def wait(self, seconds: float = LONGEST_RUN_SECONDS) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.text()[-4000:]}") from None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


@dataclass(frozen=True)
class Undisturbed:
    """What a round leaves when nothing happens to it."""

    records: list[str]
    files: Collection[str]


class Night:
    """A home folder, a database, and the processes that work on them."""

    def __init__(
        self, folder: Path, database_url: str = "", environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.url = database_url or f"sqlite:///{self.home / 'fsq.db'}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "OMP_WAIT_POLICY": "PASSIVE",
            "FSQ_HOME": str(self.home),
            "FSQ_DATABASE_URL": self.url,
        } | (environment or {})
        self.programs: list[Program] = []

    def start(self, *arguments: str, **environment: str) -> Program:
        """Starts `fsq` with these arguments."""
        output = self.folder / f"output-{len(self.programs)}.txt"
        program = Program([str(FSQ), *arguments], self.environment | environment, output)
        self.programs.append(program)
        return program

    def work(self, *arguments: str, **environment: str) -> Program:
        """Starts a worker that ends once nothing is left to do."""
        return self.start("work", "--drain", "--log-format", "json", *arguments, **environment)

    def serve(self, port: int = 0) -> Program:
        return self.start("serve", "--port", str(port), "--log-format", "json")

    def run(self, *arguments: str) -> str:
        """Runs `fsq` to its end, which must be good; what it printed."""
        program = self.start(*arguments)
        program.finish()
        return program.text()

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = open_current(self.url)
        try:
            yield database
        finally:
            database.close()

    def submit(self, path: Path) -> str:
        """Submits a round from the test's own process; its name."""
        with self.database() as database:
            intake = Intake(
                database,
                lambda spec, _: prepare(
                    spec.model, spec.tasks, self.home / "cache", held_out=spec.held_out()
                ),
            )
            resolved, file = intake.read_path(path, None)
            intake.submit(resolved, file.text, by="test")
        return resolved.spec.round

    def is_finished(self) -> bool:
        """Whether every round is."""
        with self.database() as database, database.read() as session:
            states = set(session.scalars(select(Round.state)))
        return states == {RoundState.FINISHED}

    def count(self, kind: EventKind) -> int:
        """How many events of a kind have been recorded."""
        with self.database() as database, database.read() as session:
            return session.scalar(select(func.count()).select_from(Event).where(Event.kind == kind)) or 0

    def wait_for(self, condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                said = "\n".join(f"{p.pid}: {p.text()[-3000:]}" for p in self.programs)
                raise AssertionError(f"it did not happen within {seconds:.0f} s; the programs said:\n{said}")
            time.sleep(POLL_SECONDS)

    def processes(self) -> list[str]:
        """Whatever works on the home folder, started by the test or by another process of the night."""
        mark = f"FSQ_HOME={self.home}\0".encode()
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = {pid: _read(pid, "cmdline") for pid in pids if mark in _read(pid, "environ") + b"\0"}
        return [f"{pid}: {command.decode(errors='replace')}" for pid, command in found.items() if command]

    def end(self) -> None:
        """Kills what is still running."""
        for program in self.programs:
            program.kill()

    def records(self, name: str) -> list[str]:
        """The exported records without what may differ between runs of the same round."""
        with self.database() as database:
            return [_lasting(line) for line in exports.lines(database, name, "jsonl")]

    def log(self, job: str) -> str:
        """What a job of the round of `write_round` has printed so far: "quick/baseline", "med/l1" ..."""
        return _text(self.home / f"runs/night/s4/{job}/seed0/log.txt")

    def files(self) -> frozenset[str]:
        """What lies in the home folder but locks: paths, without the digests in the names of built examples."""
        found = (str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file())
        lasting = (path for path in found if not path.startswith("locks/") and path not in TRANSIENT)
        return frozenset(re.sub(r"-[0-9a-f]{64}\.examples$", ".examples", path) for path in lasting)

    def assert_equals(self, undisturbed: Undisturbed, name: str) -> None:
        """Crash equivalence, and nothing left behind: call it when the work is done and the workers have ended."""
        assert self.records(name) == undisturbed.records
        assert (
            self.files() - set(undisturbed.files) == set()
        )  # no temporary file, no snapshot that nothing needs
        assert self.processes() == []
        assert self.jobs_that_did_not_end_once() == {}

    def jobs_that_did_not_end_once(self) -> dict[int, str]:
        """Jobs that are not done, that ended otherwise than once, or that ran again without being requeued."""
        with self.database() as database, database.read() as session:
            states = {job.id: job.state for job in session.scalars(select(Job))}
            told = Counter((event.job_id, event.kind) for event in session.scalars(select(Event)))
        wrong = {}
        for job, state in states.items():
            started, requeued, ended = (
                told[job, kind]
                for kind in (EventKind.JOB_STARTED, EventKind.JOB_REQUEUED, EventKind.JOB_ENDED)
            )
            if state is not JobState.DONE or ended != 1 or started != requeued + 1:
                wrong[job] = f"{state}: started {started}, requeued {requeued}, ended {ended} times"
        return wrong


def _lasting(line: str) -> str:
    return json.dumps({key: value for key, value in json.loads(line).items() if key not in VARYING})


def children_of(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for listed in lists for child in _text(listed).split()]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
