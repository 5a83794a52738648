"""Every check of `fsq doctor`: in order, and with what it looks for really broken."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file
from sqlalchemy import text, update

from db.session import HEAD, Database, open_current
from db.tables import Event, Job, JobState, Round, RoundState, Worker
from model import ModelShape, available_backends, random_state_dict, wkv7
from model.checkpoint import digest
from model.kernels.selection import Choice
from worker import diagnosis
from worker.diagnosis import (
    Finding,
    clock,
    database,
    device,
    inputs,
    kernels,
    machine,
    postgresql,
    sqlite,
    workers,
)

HOST = socket.gethostname()

on_sqlite = pytest.mark.parametrize(
    "database_url", ["sqlite"], indirect=True
)  # where the other tells no more
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def now() -> datetime:
    return datetime.now(UTC)


def is_problem(finding: Finding, *said: str) -> bool:
    """Whether the finding is a problem that says all this, and what to do."""
    whole = f"{finding.found} {finding.advice}"
    missing = [words for words in said if words not in whole]
    assert not missing, f"{missing} not in {finding}"
    return not finding.is_fine and bool(finding.advice)


def problems(found: list[Finding]) -> list[str]:
    return [finding.what for finding in found if not finding.is_fine]


def named(found: list[Finding], what: str) -> Finding:
    return next(finding for finding in found if finding.what == what)


# --- everything together


def test_examine__nothing_wrong(database: Database, database_url: str, tmp_path: Path) -> None:
    found = diagnosis.examine(tmp_path / "home", database_url)
    assert problems(found) == []
    whats = {finding.what for finding in found}
    common = {
        "python",
        "home",
        "hub",
        "database",
        "database writing",
        "migrations",
        "clock",
        "clock of the records",
    }
    common |= {
        "workers",
        "leases",
        "checkpoints",
        "data files",
        "device",
        "kernels on cpu",
        "compiled kernels",
    }
    of_sqlite = {"database file system", "database folder", "database integrity", "database journal"}
    of_postgresql = {
        "database version",
        "database distance",
        "database connections",
        "clock of the server",
    }
    is_sqlite = database.engine.dialect.name == "sqlite"
    assert whats - {finding.what for finding in found if finding.what.startswith("disk")} == common | (
        of_sqlite if is_sqlite else of_postgresql
    )


def test_examine__fresh_machine_stays_fresh(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "fsq.db"
    found = list(diagnosis.findings(tmp_path / "home", f"sqlite:///{path}"))
    assert problems(found) == []
    assert "none yet" in named(found, "database").found
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "sqlite:////proc/no/fsq.db", "postgresql+nodriver://h/d", "postgresql://127.0.0.1:1/d"],
)
def test_examine__url_that_leads_nowhere(url: str, tmp_path: Path) -> None:
    found = list(diagnosis.findings(tmp_path, url))
    assert is_problem(named(found, "database"), "FSQ_DATABASE_URL")
    assert named(found, "kernels on cpu").is_fine
    assert "leases" not in {finding.what for finding in found}


def test_examine__check_that_breaks_down_is_a_finding(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """A table is gone: no check can foresee every damage, and none may end the others."""
    with database.write() as session:
        session.execute(text("DROP TABLE evaluations"))
        session.execute(text("ALTER TABLE workers RENAME TO lost"))
    found = list(diagnosis.findings(tmp_path, database_url))
    broken = named([finding for finding in found if not finding.is_fine], "workers")
    assert is_problem(broken, "broke down", "workers", "run `fsq doctor` again")
    assert named(found, "checkpoints").is_fine


# --- this machine


def test_python__too_old() -> None:
    assert is_problem(machine.python((3, 10, 9)), "3.10.9", "3.11")


def test_home_folder__is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    assert is_problem(machine.home_folder(tmp_path / "home"), str(tmp_path / "home"), "FSQ_HOME")


def test_home_folder__takes_files_but_one_of_its_folders_does_not(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    assert is_problem(machine.home_folder(tmp_path), str(tmp_path / "runs"), os.strerror(errno.ENOTDIR))
    (tmp_path / "runs").unlink()
    (tmp_path / "runs").symlink_to(tmp_path / "disk-that-is-not-mounted")
    assert is_problem(machine.home_folder(tmp_path), os.strerror(errno.ENOENT))


def test_disk__full(tmp_path: Path) -> None:
    assert is_problem(machine.disk("disk of home", tmp_path, wanted=2**70), "GiB free", "free some space")


def test_disk__no_entry_left_for_a_file(tmp_path: Path) -> None:
    if os.statvfs(tmp_path).f_files == 0:
        pytest.skip("this file system has no table of files")
    assert is_problem(
        machine.disk("disk of home", tmp_path, wanted=0, wanted_files=2**70), "more files", "inodes"
    )


def test_disks__one_finding_for_each_file_system_with_the_greatest_need(tmp_path: Path) -> None:
    (found,) = machine.disks([("home", tmp_path / "not" / "yet", 2**70), ("database", tmp_path, 0)])
    assert found.what == "disk of home, database"
    assert not found.is_fine


# --- the device


def nvidia_smi(folder: Path, script: str) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


TWO_DEVICES = "echo 'NVIDIA H100, 1000 MiB, 81559 MiB'; echo 'NVIDIA H100, 80000 MiB, 81559 MiB'"
FOR_CPU = device.Torch("2.9.0+cpu", None, 0)


def test_device__none(tools: Path) -> None:
    assert device.device(FOR_CPU, driver=tools / "none") == Finding(
        "device", True, f"no CUDA device; {len(os.sched_getaffinity(0))} CPU cores"
    )


def test_device__free_memory_of_each(tools: Path) -> None:
    nvidia_smi(tools, TWO_DEVICES)
    found = device.device(device.Torch("2.9.0", "12.8", 2))
    assert found == Finding(
        "device",
        True,
        "NVIDIA H100, 1000 MiB of 81559 MiB free; NVIDIA H100, 80000 MiB of 81559 MiB free",
    )


def test_device__torch_for_the_cpu_only(tools: Path) -> None:
    nvidia_smi(tools, TWO_DEVICES)
    assert is_problem(device.device(FOR_CPU), "2.9.0+cpu is built for the CPU only", "install a CUDA build")


def test_device__torch_sees_fewer_than_the_driver(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tools, TWO_DEVICES)
    old_driver = device.Torch("2.9.0", "12.8", 0)
    assert is_problem(device.device(old_driver), "can use 0 of them", "update the driver")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert is_problem(device.device(old_driver), "CUDA_VISIBLE_DEVICES (1)", "--device cuda:N")


def test_device__driver_without_its_tools(tools: Path) -> None:
    (tools / "version").touch()
    assert is_problem(device.device(FOR_CPU, driver=tools / "version"), "no nvidia-smi", "PATH")


def test_device__driver_that_fails(tools: Path) -> None:
    nvidia_smi(tools, "echo 'Driver/library version mismatch' >&2; exit 18")
    assert is_problem(device.device(FOR_CPU), "ended with 18: Driver/library version mismatch", "restart")
    (tools / "nvidia-smi").write_bytes(b"\0not a program")
    assert is_problem(device.device(FOR_CPU), "cannot be run", "restart")


def test_device__driver_that_hangs(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tools, "while :; do :; done")
    monkeypatch.setattr(device, "PATIENCE_SECONDS", 0.2)
    assert is_problem(device.device(FOR_CPU), "has not answered for 0.2 s", "restart")


# --- kernels


def test_self_test__every_backend_is_right() -> None:
    found = kernels.self_test("kernels on cpu", "cpu", available_backends(), Choice("chunked", "it is there"))
    assert found.is_fine
    assert "chunked is used: it is there" in found.found
    assert all(backend in found.found for backend in available_backends())


def test_self_test__backend_that_is_not_there() -> None:
    assert kernels.self_test(
        "kernels on cpu", "cpu", ("reference", "none"), Choice("reference", "exact")
    ).is_fine
    found = kernels.self_test("kernels on cpu", "cpu", ("reference", "none"), Choice("none", "x"))
    assert is_problem(found, "unknown WKV-7 backend 'none'", "jobs cannot run")


def test_self_test__device_that_fails() -> None:
    """Torch has this device, and cannot compute on it: as with a driver or an accelerator that is broken."""
    found = kernels.self_test("kernels on meta", "meta", ("reference",), Choice("reference", "exact"))
    assert is_problem(found, "reference failed: RuntimeError", "jobs cannot run")


@pytest.mark.parametrize("name", ["y", "the state", *(f"the gradient of {x}" for x in kernels._NAMES)])
def test_verdict__one_wrong_result_is_named(name: str) -> None:
    exact = kernels.results(kernels._exact, kernels.sample())
    wrong = exact | {name: exact[name] * 1.01}
    assert kernels.largest_error(exact, exact)[0] == 0
    error, of = kernels.largest_error(wrong, exact)
    assert (round(error, 6), of) == (0.01, name)
    nan = exact | {name: exact[name] * float("nan")}
    assert kernels.largest_error(nan, exact) == (float("inf"), name)
    assert is_problem(
        kernels.verdict(
            "kernels on cpu",
            {"good": (0.0, "y"), "bad": kernels.largest_error(wrong, exact)},
            Choice("good", "x"),
        ),
        f"{name} of bad is wrong",
        "do not trust",
    )


def test_results__both_outputs_count_in_the_gradients() -> None:
    """A kernel whose last state lets no gradient through is found out."""

    def cut_off(*x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r, w, k, v, a, b, s0 = x
        y, sT = wkv7(r, w, k, v, a, b, s0, backend="reference")
        return y, sT.detach()

    problem = kernels.sample()
    error, name = kernels.largest_error(
        kernels.results(cut_off, problem), kernels.results(kernels._exact, problem)
    )
    assert error > kernels.LARGEST_ERROR
    assert name.startswith("the gradient of ")


# --- the database


def test_database__server_that_is_not_there() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://me:secret@127.0.0.1:{taken.getsockname()[1]}/fsq"
        (found,) = database.examine(url)
    assert is_problem(
        found, "does not answer", "FSQ_DATABASE_URL", "rounds, clock and workers were not looked at"
    )
    assert "secret" not in f"{found}"


def test_database__file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "fsq.db"
    path.write_bytes(b"this is not SQLite" * 1000)
    found = list(database.examine(f"sqlite:///{path}"))
    assert is_problem(found[-1], "not a database", str(path), "backup")


def test_migrations__empty_database(database_url: str) -> None:
    opened = Database(database_url)
    opened.revision()  # makes the file
    opened.close()
    found = list(database.examine(database_url))
    assert problems(found) == []
    assert "the first command makes the schema" in named(found, "migrations").found


@on_sqlite
@pytest.mark.parametrize(
    ("revision", "advice"), [("0001", "fsq db upgrade"), ("9999", "install the newer fsq")]
)
def test_migrations__other_revision(
    database: Database, database_url: str, tmp_path: Path, revision: str, advice: str
) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    found = list(diagnosis.findings(tmp_path, database_url))
    assert problems(found) == ["migrations"]
    assert is_problem(named(found, "migrations"), revision, HEAD, advice)
    assert "leases" not in {finding.what for finding in found}


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """A current SQLite database that nobody has open."""
    path = tmp_path / "fsq.db"
    open_current(f"sqlite:///{path}").close()
    return path


@contextmanager
def connected(name: str, **options: Any) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(name, isolation_level=None, **options)) as connection:
        yield connection


def test_integrity__damaged_page(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_jobs_progress'"
        ).fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert sqlite.integrity(connection).is_fine
    with sqlite_file.open("r+b") as file:
        file.seek((root - 1) * page)
        file.write(b"\xff" * page)
    found = list(database.examine(f"sqlite:///{sqlite_file}"))
    assert is_problem(named(found, "database integrity"), "backup", ".recover")
    assert named(found, "migrations").is_fine


def test_journal__where_memory_cannot_be_shared(sqlite_file: Path) -> None:
    """As on a network file system: this way of locking has no shared memory, so a write-ahead log is impossible."""
    with connected(str(sqlite_file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    with connected(f"file:{sqlite_file}?vfs=unix-dotfile", uri=True) as connection:
        assert is_problem(sqlite.journal(connection), "mode delete", "local disk")
    with connected(str(sqlite_file)) as connection:
        assert sqlite.journal(connection).is_fine


def test_journal__held_open_in_another_mode(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as reader, connected(str(sqlite_file), timeout=0) as connection:
        reader.execute("PRAGMA journal_mode=DELETE")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()
        assert is_problem(sqlite.journal(connection), "locked", "stop programs that hold it open")


def test_writing__locked_by_another_process(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as other, connected(str(sqlite_file)) as connection:
        other.execute("BEGIN IMMEDIATE")
        assert is_problem(sqlite.writing(connection, patience=0.05), "locked", "fuser")
        other.execute("ROLLBACK")
        assert sqlite.writing(connection).is_fine
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'fsq_doctor'").fetchall() == []


def test_writing__file_that_may_only_be_read(sqlite_file: Path) -> None:
    with connected(f"file:{sqlite_file}?mode=ro", uri=True) as connection:
        assert is_problem(sqlite.writing(connection), "readonly", "give the file")


def test_writing__full(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")
        assert is_problem(sqlite.writing(connection), "full", "free the disk")


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local\\040disk xfs rw 0 0
//nas/share /mnt/nas cifs rw 0 0
me@host: /mnt/ssh fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/fsq.db", "nfs4 on /home"),
        ("/mnt/nas/fsq.db", "cifs on /mnt/nas"),
        ("/mnt/ssh/fsq.db", "fuse.sshfs on /mnt/ssh"),
    ],
)
def test_file_system__of_the_network(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert is_problem(sqlite.file_system(Path(path), tmp_path / "mounts"), kind, "use PostgreSQL")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/homely/fsq.db", "ext4 on /"),
        ("/home/me/local disk/fsq.db", "xfs on /home/me/local disk"),
    ],
)
def test_file_system__of_this_machine(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert sqlite.file_system(Path(path), tmp_path / "mounts") == Finding("database file system", True, kind)
    assert sqlite.file_system(Path(path), tmp_path / "none").is_fine


def test_folder__takes_no_files(tmp_path: Path) -> None:
    assert is_problem(
        sqlite.folder(tmp_path / "gone"), str(tmp_path / "gone"), "SQLite writes beside its file"
    )


def test_version__too_old() -> None:
    assert is_problem(postgresql.version(120018), "PostgreSQL 12.18", "13")
    assert postgresql.version(130000).is_fine


def test_distance__too_long() -> None:
    assert is_problem(postgresql.distance([0.4, 0.001, 0.3]), "300.0 ms", "closer together")
    assert postgresql.distance([0.4, 0.001, 0.002]).is_fine


def test_connections__nearly_used_up() -> None:
    assert is_problem(postgresql.connections(90, 100, 3), "90 in use of 97", "max_connections")
    assert postgresql.connections(80, 100, 3).is_fine


@on_postgresql
def test_writing__server_that_takes_no_writes(database: Database, database_url: str) -> None:
    separator = "&" if "?" in database_url else "?"
    readonly = f"{database_url}{separator}options={quote('-c default_transaction_read_only=on')}"
    with closing(Database(readonly)) as standby:
        assert is_problem(postgresql.writing(standby), "read-only transaction", "not to a standby")
    assert postgresql.writing(database).is_fine
    with database.read() as session:
        assert session.execute(text("SELECT to_regclass('fsq_doctor')")).scalar() is None


# --- the clock


def test_calendar__before_fsq_was_written() -> None:
    assert is_problem(clock.calendar(datetime(1970, 1, 1, 0, 3, tzinfo=UTC)), "1970-01-01", "NTP")
    assert clock.calendar(datetime(2026, 1, 1, tzinfo=UTC)).is_fine


@on_postgresql
def test_server__other_time(database: Database) -> None:
    assert clock.server(database, now).is_fine
    for seconds, said in ((-300, "s ahead"), (3, "s behind")):
        found = clock.server(database, lambda: now() + timedelta(seconds=seconds))  # noqa: B023  (called at once)
        assert is_problem(found, said, "NTP", "both machines")


def test_memory__from_the_future(database: Database) -> None:
    add_job(database)
    with database.write() as session:
        session.add(Event(round_id=1, number=1, at=now(), kind="submitted", data={}))
    assert clock.memory(database, now()).is_fine
    changes = {
        "an event": update(Event).values(at=now() + timedelta(hours=1)),
        "a worker's sign of life": update(Worker).values(seen_at=now() + timedelta(hours=2)),
        "the start of a job": update(Job).values(started_at=now() + timedelta(hours=3)),
        "the end of a job": update(Job).values(finished_at=now() + timedelta(hours=4)),
    }
    for hours, (said, change) in enumerate(changes.items(), start=1):
        with database.write() as session:
            session.execute(change)
        assert is_problem(clock.memory(database, now()), f"{said} lies in the future", "NTP")
        assert clock.memory(database, now() + timedelta(hours=hours)).is_fine


# --- inputs of rounds


def add_job(
    database: Database,
    *,
    name: str = "r",
    state: RoundState = RoundState.ACTIVE,
    facts: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    worker: dict[str, Any] | None = None,
    **changes: Any,
) -> Job:
    """A round of one job, and a worker."""
    with database.write() as session:
        values = {"host": HOST, "pid": os.getpid(), "device": "cpu", "device_lock": "", "started_at": now()}
        at_work = Worker(**(values | {"seen_at": now()} | (worker or {})))
        session.add(at_work)
        session.flush()
        job = {"task": "s4", "stage": "quick", "variant": "l1", "seed": 0, "fingerprint": "", "payload": {}}
        times = {"not_before": now(), "created_at": now()}
        row = Round(
            name=name,
            digest="",
            source="",
            state=state,
            spec=spec or {"tasks": {}},
            facts=facts or {"model": {"path": None, "digest": ""}},
            created_at=now(),
            jobs=[Job(**(job | times | {"worker_id": at_work.id} | changes))],
        )
        session.add(row)
        session.flush()
        return row.jobs[0]


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(random_state_dict(ModelShape.random(1, 64, 32), seed=0), path)
    return path


def needing(path: Path) -> dict[str, Any]:
    return {"model": {"path": str(path), "digest": digest(path)}}


def test_inputs__checkpoint_in_order(database: Database, checkpoint_file: Path) -> None:
    add_job(database, name="a", facts=needing(checkpoint_file))
    add_job(database, name="b", facts=needing(checkpoint_file), state=RoundState.WAITING)
    found = list(inputs.examine(database))
    assert problems(found) == []
    assert "the same as at submission; needed by a, b" in named(found, "checkpoint tiny.safetensors").found


@on_sqlite
@pytest.mark.parametrize("state", [RoundState.ACTIVE, RoundState.WAITING, RoundState.FINISHED])
def test_inputs__checkpoint_missing(database: Database, checkpoint_file: Path, state: RoundState) -> None:
    add_job(database, facts=needing(checkpoint_file), state=state)
    checkpoint_file.unlink()
    found = list(inputs.examine(database))
    if state is RoundState.FINISHED:
        assert problems(found) == []
    else:
        assert is_problem(found[0], "does not exist", "needed by r", "fsq cancel")


@on_sqlite
def test_inputs__checkpoint_cut_short_and_changed(database: Database, checkpoint_file: Path) -> None:
    add_job(database, facts=needing(checkpoint_file))
    whole = checkpoint_file.read_bytes()
    checkpoint_file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert is_problem(next(inputs.examine(database)), "has changed", "put back")
    checkpoint_file.write_bytes(whole[: len(whole) // 2])
    assert is_problem(next(inputs.examine(database)), "cut short", "put the file back")


@on_sqlite
def test_inputs__data_file_missing(database: Database, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").touch()
    tasks = {
        "one": {"data": {"path": str(tmp_path / "there.jsonl")}},
        "two": {"data": {"path": None, "train": str(tmp_path / "gone.jsonl"), "val": str(tmp_path)}},
        "generated": {"data": None},
        "hub": {"data": {"path": None, "hub": {"repo": "a/b"}}},
    }
    add_job(database, spec={"tasks": tasks})
    found = named(list(inputs.examine(database)), "data files")
    assert is_problem(
        found, f"{tmp_path / 'gone.jsonl'}: {os.strerror(errno.ENOENT)} (round r)", "put the files back"
    )
    assert f"{tmp_path}: {os.strerror(errno.EISDIR)}" in found.found
    assert "there.jsonl" not in found.found


# --- workers, locks and leases


def at_work(path: Path, **changes: Any) -> dict[str, Any]:
    """A worker of this machine that holds this lock file."""
    return {"device_lock": f"{HOST}:{path.resolve()}"} | changes


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "locks" / "cpu.lock"
    path.parent.mkdir()
    return path


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def of_worker(database: Database, lock: Path) -> Finding:
    (found,) = [f for f in workers.examine(database, lock.parent.parent) if f.what.startswith("worker ")]
    return found


@on_sqlite
def test_workers__at_work(database: Database, lock: Path) -> None:
    add_job(database, worker=at_work(lock))
    with FileLock(lock):
        found = list(workers.examine(database, lock.parent.parent))
    assert found == [
        Finding("lock cpu.lock", True, "held by a worker"),
        Finding(f"worker 1 on {HOST} (cpu)", True, f"process {os.getpid()} is at work"),
        Finding("leases", True, "no job is stuck"),
    ]


@on_sqlite
def test_workers__died(database: Database, lock: Path, gone: int) -> None:
    """Its process is gone, or its number is another's now; the lock is free, or there is none any more."""
    add_job(database, worker=at_work(lock, pid=gone))
    said = ("died", "fsq work --device cpu", "takes its jobs back")
    assert is_problem(of_worker(database, lock), *said)
    lock.touch()
    assert is_problem(of_worker(database, lock), *said)
    with database.write() as session:
        session.query(Worker).update({"pid": os.getpid()})
    assert is_problem(of_worker(database, lock), *said)
    with database.write() as session:
        session.query(Worker).update({"stopped_at": now()})
    assert problems(list(workers.examine(database, lock.parent.parent))) == []


@on_sqlite
def test_workers__died_but_its_lock_is_held(database: Database, lock: Path, gone: int) -> None:
    add_job(database, worker=at_work(lock, pid=gone))
    with FileLock(lock):
        found = of_worker(database, lock)
    assert is_problem(found, f"process {gone} is gone", "still holds its lock", "end that process")


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="this platform does not tell who has a file open"
)
def test_locks__held_by_a_worker_of_another_database(lock: Path) -> None:
    with FileLock(lock):
        (found,) = workers.locks(lock.parent, HOST, [])
        assert is_problem(found, f"process {os.getpid()}", "no worker of this database", "another database")
    (found,) = workers.locks(lock.parent, HOST, [])
    assert found == Finding("lock cpu.lock", True, "free")


def test_locks__that_cannot_be_opened(lock: Path) -> None:
    lock.mkdir()
    (found,) = workers.locks(lock.parent, HOST, [])
    assert is_problem(found, os.strerror(errno.EISDIR), "remove it")


@on_sqlite
def test_workers__of_another_machine_that_is_silent(database: Database, lock: Path) -> None:
    far = {"host": "far", "device_lock": f"far:{lock}"}
    add_job(database, worker=far)
    assert of_worker(database, lock).is_fine
    with database.write() as session:
        session.query(Worker).update({"seen_at": now() - timedelta(minutes=10)})
    assert is_problem(of_worker(database, lock), "not seen since", "look at far", "lease")


@on_sqlite
def test_workers__stopped_pulling(database: Database, lock: Path) -> None:
    add_job(database, worker=at_work(lock, paused="5 failures in a row, the last: disk full"))
    with FileLock(lock):
        assert is_problem(
            of_worker(database, lock), "stopped pulling", "disk full", "by itself after a pause"
        )


@pytest.mark.parametrize(("until", "said"), [(-1, "ended"), (48, "ends only")])
def test_leases__job_that_nobody_works_on(database: Database, tmp_path: Path, until: int, said: str) -> None:
    lease = now() + timedelta(hours=until)
    job = add_job(database, state=RoundState.ACTIVE, lease_expires_at=lease)
    with database.write() as session:
        session.query(Job).update({"state": JobState.RUNNING})
    found = named(list(workers.examine(database, tmp_path)), "leases")
    which = (
        f"job {job.id} (r: s4 quick l1 seed 0) runs with a lease that {said} {lease:%Y-%m-%d %H:%M:%S} UTC"
    )
    assert is_problem(found, which, "fsq work")


@on_sqlite
def test_leases__job_at_work(database: Database, tmp_path: Path) -> None:
    add_job(database, lease_expires_at=now() + timedelta(seconds=60))
    with database.write() as session:
        session.query(Job).update({"state": JobState.RUNNING})
    assert named(list(workers.examine(database, tmp_path)), "leases").is_fine
