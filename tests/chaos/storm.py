"""A night in which things break: two workers and a server that are started again whenever they end, and faults.

What breaks, and when, comes from outside; whom it hits is drawn from the storm's random numbers. Everything that a
fault holds up (a process, a database) is let go after a while.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from db.errors import DatabaseUnreachable
from tests.chaos.observer import Observer
from tests.faults.harness import Night, Program
from tests.faults.postgres import PostgresServer
from tests.faults.preloads import Clock

LEASE_SECONDS = 4
ENVIRONMENT = {
    "FSQ_LEASE_SECONDS": str(LEASE_SECONDS),
    "FSQ_MAX_ATTEMPTS": "1000",  # a storm strikes faster than a child starts
    "FSQ_MAX_FAILURES_IN_A_ROW": "1000",
}
TICK_SECONDS = 0.02
LOOK_SECONDS = 0.5  # between questions whether it is over
LONGEST_NIGHT_SECONDS = 1800.0


class Strike(NamedTuple):
    """A fault, and when it strikes: so many evaluations after the last one, or so many seconds."""

    fault: str
    evaluations: int
    seconds: float


class Storm:
    """One night; `struck` counts the faults that hit something."""

    def __init__(
        self, night: Night, clock: Clock, rng: random.Random, postgres: PostgresServer | None
    ) -> None:
        self.struck: Counter[str] = Counter()
        self.observer = Observer()
        self._night = night
        self._clock = clock
        self._rng = rng
        self._postgres = postgres
        self._held: list[tuple[float, Callable[[], None]]] = []  # when to let go what
        self._database_is_away = False
        self._workers = {device: self._start_worker(device) for device in ("cpu", "cpu:1")}
        self._server = night.serve()
        self._faults: dict[str, Callable[[], bool]] = {
            "worker killed": self._kill_worker,
            "worker terminated": self._terminate_worker,
            "worker frozen": self._freeze_worker,
            "child killed": self._kill_child,
            "child frozen": self._freeze_child,
            "server killed": self._kill_server,
            "database away": self._take_database_away,
            "snapshot damaged": self._damage_snapshot,
            "clock jumped": self._jump_clock,
        }

    def rage(self, strikes: Iterable[Strike]) -> None:
        """Until every round is finished; then everything is let go, and asked to end."""
        deadline = time.monotonic() + LONGEST_NIGHT_SECONDS
        to_come = iter(strikes)
        strike, seen, struck_at, looked_at = next(to_come, None), 0, time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            assert now < deadline, "the round does not come to its end"
            self._keep_up(now)
            evaluations = self.observer.evaluations
            if (
                strike
                and (evaluations - seen >= strike.evaluations or now - struck_at >= strike.seconds)
                and self._strike(strike.fault)  # else it is tried again: there was nothing to hit
            ):
                strike, seen, struck_at = next(to_come, None), evaluations, now
            if now - looked_at >= LOOK_SECONDS:
                if self._is_over():
                    break
                looked_at = now
            time.sleep(TICK_SECONDS)
        self._calm_down()

    def _strike(self, fault: str) -> bool:
        has_hit = self._faults[fault]()
        if has_hit:
            self.struck[fault] += 1
            with (self._night.folder / "strikes.txt").open("a") as diary:  # to read when something went wrong
                diary.write(f"{datetime.now(UTC):%H:%M:%S.%f} {fault}\n")
        return has_hit

    def _keep_up(self, now: float) -> None:
        """Lets go what was held long enough, hears the workers and starts again what has ended."""
        for _, let_go in [held for held in self._held if held[0] <= now]:
            let_go()
        self._held = [held for held in self._held if held[0] > now]
        for device, worker in self._workers.items():
            is_alive = worker.is_alive
            self.observer.look(worker)
            if not is_alive:
                self._workers[device] = self._start_worker(device)
        if not self._server.is_alive:
            self._server = self._night.serve()

    def _is_over(self) -> bool:
        try:
            return self._night.is_finished()
        except DatabaseUnreachable:
            return False

    def _calm_down(self) -> None:
        for _, let_go in self._held:
            let_go()
        for program in (*self._workers.values(), self._server):
            code = program.stop()
            assert code in (0, -signal.SIGTERM), program.text()  # the signal: it was still starting
        for worker in self._workers.values():
            self.observer.look(worker)

    def _start_worker(self, device: str) -> Program:
        return self._night.start("work", "--device", device, "--log-format", "json")

    def _hold(self, let_go: Callable[[], None], shortest: float, longest: float) -> None:
        self._held.append((time.monotonic() + self._rng.uniform(shortest, longest), let_go))

    def _any_worker(self) -> Program:
        return self._rng.choice(list(self._workers.values()))

    def _kill_worker(self) -> bool:
        worker = self._any_worker()
        was_alive = worker.is_alive
        worker.kill()
        self.observer.killed(worker)
        return was_alive

    def _terminate_worker(self) -> bool:
        worker = self._any_worker()
        worker.send(signal.SIGTERM)
        return worker.is_alive

    def _freeze_worker(self) -> bool:
        """Often longer than its lease lasts: somebody else has its job when it comes back."""
        worker = self._any_worker()
        worker.send(signal.SIGSTOP)
        self._hold(lambda: worker.send(signal.SIGCONT), 0.5, 2 * LEASE_SECONDS)
        return worker.is_alive

    def _kill_child(self) -> bool:
        worker = self._any_worker()
        child = worker.child()
        if child:
            os.kill(child, signal.SIGKILL)
            self.observer.killed(worker)
        return bool(child)

    def _freeze_child(self) -> bool:
        child = self._any_worker().child()
        if child:
            os.kill(child, signal.SIGSTOP)
            self._hold(lambda: _resume(child), 0.2, 2.0)
        return bool(child)

    def _kill_server(self) -> bool:
        self._server.kill()
        return True

    def _take_database_away(self) -> bool:
        if self._database_is_away:
            return False
        return self._lock_sqlite() if self._postgres is None else self._stop_postgres(self._postgres)

    def _lock_sqlite(self) -> bool:
        other = sqlite3.connect(self._night.home / "fsq.db", isolation_level=None, timeout=1)
        try:
            other.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:  # a frozen worker has it locked already
            other.close()
            return False
        self._database_is_away = True

        def let_go() -> None:
            other.close()
            self._database_is_away = False

        self._hold(let_go, 0.2, 3.0)
        return True

    def _stop_postgres(self, server: PostgresServer) -> bool:
        server.stop()
        self._database_is_away = True

        def let_go() -> None:
            server.start()
            self._database_is_away = False

        self._hold(let_go, 0.2, 3.0)
        return True

    def _damage_snapshot(self) -> bool:
        """Removes it, cuts it short, or writes nonsense into its middle."""
        snapshots = sorted((self._night.home / "snapshots").glob("*"))
        if not snapshots:
            return False
        snapshot, how = self._rng.choice(snapshots), self._rng.choice(("remove", "cut", "overwrite"))
        with suppress(FileNotFoundError):  # it was replaced meanwhile
            if how == "remove":
                snapshot.unlink()
                return True
            with snapshot.open("r+b") as file:
                middle = snapshot.stat().st_size // 2
                if how == "cut":
                    file.truncate(middle)
                else:
                    file.seek(middle)
                    file.write(self._rng.randbytes(64))
            return True
        return False

    def _jump_clock(self) -> bool:
        self._clock.set(hours=self._rng.choice((-3, 0, 3)))
        return True


def _resume(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)
