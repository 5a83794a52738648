"""Crash equivalence after a storm: two workers, two databases, faults at random."""

from __future__ import annotations

import json
import os
import random
import secrets
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.observer import Observer
from tests.chaos.storm import ENVIRONMENT, Storm, Strike
from tests.faults.harness import Night, Undisturbed
from tests.faults.postgres import PostgresServer
from tests.faults.preloads import Clock
from tests.faults.rounds import undisturbed, write_round

KILLS = ("worker killed", "child killed", "server killed")
OTHERS = ("worker frozen", "database away", "snapshot damaged", "clock jumped")
SHORT = (*KILLS, *OTHERS)  # in an order that is drawn
LONG = (*4 * KILLS[:2], "server killed", *OTHERS, "worker terminated", "child frozen")
KILLS_EACH = 100  # on each database
LONGEST_SERIES = 40  # nights
LONGEST_LULL_SECONDS = 90.0


def write_storm_round(folder: Path, *, quick: int, med: int) -> Path:
    """Twelve jobs in two chains that run side by side."""
    return write_round(
        folder,
        round="storm",
        parallel=True,
        seeds=[0, 1],
        stages=[
            {"name": "quick", "steps": quick, "eval_every": 2},
            {"name": "med", "steps": med, "eval_every": 2},
        ],
        variants={"l1": {"layer_start": 1, "norm": False}, "l2": {"layer_start": 2}},
    )


def write_short_round(folder: Path) -> Path:
    return write_storm_round(folder, quick=12, med=20)


def write_long_round(folder: Path) -> Path:
    return write_storm_round(folder, quick=40, med=80)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The short round, undisturbed."""
    folder = tmp_path_factory.mktemp("calm")
    return undisturbed(folder, write_short_round(folder))["storm"]


@pytest.mark.chaos
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_storm__short(
    database: str, calm: Undisturbed, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rng = random.Random(f"short, {database}")
    faults = rng.sample(SHORT, len(SHORT))
    with storm(database, request, tmp_path, rng) as (night, weather):
        night.submit(write_short_round(tmp_path))
        weather.rage(Strike(fault, rng.randint(2, 5), 15.0) for fault in faults)
        assert weather.struck.total() == len(faults), weather.struck
        assert_undisturbed(night, weather, calm)


@pytest.mark.chaos
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_storm__long(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Nights until there have been kills enough; FSQ_CHAOS_SEED repeats the faults of an earlier run."""
    seed = os.environ.get("FSQ_CHAOS_SEED") or str(secrets.randbelow(10**9))
    print(f"\n{database}: FSQ_CHAOS_SEED={seed}")
    calm = undisturbed(tmp_path, write_long_round(tmp_path))["storm"]
    struck: Counter[str] = Counter()
    observers: list[Observer] = []
    while (number := len(observers)) < LONGEST_SERIES and sum(struck[kill] for kill in KILLS) < KILLS_EACH:
        rng = random.Random(f"{seed}, {database}, {number}")
        folder = tmp_path / f"night-{number}"
        folder.mkdir()
        with storm(database, request, folder, rng) as (night, weather):
            night.submit(write_long_round(folder))
            weather.rage(endless(rng))
            assert_undisturbed(night, weather, calm)
        print(f"night {number}: {dict(weather.struck)}")
        struck += weather.struck
        observers.append(weather.observer)
    print(
        json.dumps(
            {"database": database, "seed": seed, "nights": len(observers)} | summary(struck, observers)
        )
    )
    assert sum(struck[kill] for kill in KILLS) >= KILLS_EACH


def endless(rng: random.Random) -> Iterator[Strike]:
    """Faults at random instants: a third whatever the workers are doing, the others once they got on."""
    while True:
        patience = rng.choice((rng.uniform(0.5, 10.0), LONGEST_LULL_SECONDS, LONGEST_LULL_SECONDS))
        yield Strike(rng.choice(LONG), rng.randint(1, 12), patience)


@contextmanager
def storm(
    database: str, request: pytest.FixtureRequest, folder: Path, rng: random.Random
) -> Iterator[tuple[Night, Storm]]:
    """A night on an empty database, with its workers; killed at the end whatever happened."""
    server = PostgresServer(request.getfixturevalue("postgres_server")) if database == "postgresql" else None
    clock = Clock(folder)
    night = Night(folder, server.new_database() if server else "", ENVIRONMENT | clock.environment)
    try:
        with night.database():  # it has its tables before three processes would make them
            pass
        yield night, Storm(night, clock, rng, server)
    finally:
        night.end()
        if server:
            server.start()


def assert_undisturbed(night: Night, weather: Storm, calm: Undisturbed) -> None:
    """Crash equivalence; no result was recorded twice; no process ended by a defect."""
    night.assert_equals(calm, "storm")
    assert [job for job, times in weather.observer.results.items() if times > 1] == []
    assert [program.text() for program in night.programs if "\nTraceback" in f"\n{program.text()}"] == []


def summary(struck: Counter[str], observers: list[Observer]) -> dict[str, object]:
    """Counts, and seconds: medians, 99th percentiles and the worst."""
    losses = [loss for observer in observers for loss in observer.losses]
    usual = statistics.median(interval for observer in observers for interval in observer.intervals)
    lost = [max(0.0, loss.further - usual) for loss in losses if loss.further is not None]
    again = [loss.running_again for loss in losses if loss.running_again is not None]
    return {
        "faults": dict(sorted(struck.items())),
        "kills": sum(struck[kill] for kill in KILLS),
        "kills_of_running_jobs": len(losses),
        "seconds_between_evaluations": round(usual, 3),
        "seconds_lost_per_kill": spread(lost),
        "seconds_until_running_again": spread(again),
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"median": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[int(share * (len(ordered) - 1))], 2) for name, share in at.items()}
