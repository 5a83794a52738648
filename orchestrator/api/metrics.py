"""What Prometheus is told: counted in this process, or read from the database when it asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select

from db.session import Database
from db.tables import Decision, Job, JobState
from orchestrator.api.watch import Watch
from orchestrator.verdicts import Verdict
from orchestrator.views import lookup
from worker.job import CONCLUSIVE, Outcome


class Metrics:
    """What is counted in this process, and what the database knows whenever it is asked."""

    def __init__(self, collector: Collector) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "fsq_http_requests", "HTTP requests.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "fsq_http_request_seconds",
            "Time until the response was sent.",
            ("method", "route"),
            registry=self.registry,
        )
        self.registry.register(collector)


class FromDatabase(Collector):
    """Rounds, jobs, decisions and workers."""

    def __init__(self, database: Database, watch: Watch) -> None:
        self._database, self._watch = database, watch
        self._highest: dict[str, dict[str, int]] = {}

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering does not ask the database

    def collect(self) -> Iterable[Metric]:
        now = datetime.now(UTC)
        with self._database.read() as session:
            status = lookup.status(session, now)
            outcomes = dict.fromkeys(Outcome, 0) | dict(  # all from the start: from nothing nothing can rise
                session.execute(
                    select(Job.outcome, func.count()).where(Job.state == JobState.DONE).group_by(Job.outcome)
                ).all()
            )
            decisions = dict.fromkeys(Verdict, 0) | dict(
                session.execute(select(Decision.decision, func.count()).group_by(Decision.decision)).all()
            )
            of_whole, of_stopped = (Job.result[key]["seconds"].as_float() for key in ("metrics", "partial"))
            trained = select(func.sum(func.coalesce(of_whole, of_stopped))).where(Job.outcome.in_(CONCLUSIVE))
            seconds = session.scalar(trained) or 0.0
            since = case((Job.not_before > Job.created_at, Job.not_before), else_=Job.created_at)
            oldest = session.scalar(select(func.min(since)).where(Job.state == JobState.QUEUED))
        yield _gauge("fsq_rounds", "Rounds.", "state", status.rounds)
        yield _gauge("fsq_jobs", "Jobs.", "state", status.jobs)
        yield _gauge("fsq_workers", "Workers.", "state", status.workers)
        yield self._counter("fsq_jobs_finished", "Jobs that have ended.", "outcome", outcomes)
        yield self._counter("fsq_decisions", "Decisions taken.", "decision", decisions)
        yield CounterMetricFamily(
            "fsq_accelerator_seconds", "Seconds of training and evaluation.", value=seconds
        )
        age = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
        yield GaugeMetricFamily(
            "fsq_oldest_queued_job_age_seconds", "How long the next job has waited.", value=age
        )
        yield GaugeMetricFamily("fsq_event_streams", "Event streams that wait.", value=self._watch.streams)

    def _counter(self, name: str, text: str, label: str, values: Mapping[Any, int]) -> CounterMetricFamily:
        """Never falls, though a retry takes jobs and decisions back; those count again once there are more."""
        family = CounterMetricFamily(name, text, labels=[label])
        highest = self._highest.setdefault(name, {})
        for value, count in values.items():
            highest[value] = max(count, highest.get(value, 0))
        for value, count in highest.items():
            family.add_metric([value], count)
        return family


def _gauge(name: str, text: str, label: str, values: Mapping[Any, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
