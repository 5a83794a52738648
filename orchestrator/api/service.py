"""What the handlers work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from db.session import Database
from orchestrator.api.access import Access
from orchestrator.api.metrics import Metrics
from orchestrator.api.watch import Watch
from orchestrator.intake import Intake
from orchestrator.lru import LruCache


@dataclass(frozen=True)
class Service:
    """One server's database, its way of taking rounds in, its doors and its files."""

    database: Database
    intake: Intake
    access: Access
    watch: Watch
    metrics: Metrics
    home: Path  # where the runs' logs lie
    roots: Sequence[Path]  # relative paths of rounds are taken from the first one
    preparations: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))  # at once; others wait
    # answers by what was asked and its stamp
    recent: LruCache[bytes] = field(default_factory=lambda: LruCache(256))


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(service_of)]
