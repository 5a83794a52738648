"""The pages of rounds: the list, one round, its decisions and jobs, its file, cancelling and retrying it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

from db.tables import JobState, RoundState
from orchestrator.api import rounds as api
from orchestrator.api.access import Reader, Submitter, require
from orchestrator.api.paging import MAX_ID
from orchestrator.api.problems import Forbidden
from orchestrator.api.rounds import Name
from orchestrator.api.service import Here
from orchestrator.errors import Conflict
from orchestrator.rounds import chains, stored_round
from orchestrator.rounds.catalogue import MAX_NAME
from orchestrator.rounds.variants import NAME_PATTERN
from orchestrator.token_scope import TokenScope
from orchestrator.views import lookup, progress
from orchestrator.views.lookup import Slice
from orchestrator.web.jobs import end_of_log, workers_of
from orchestrator.web.overview import Overview, Overviews
from orchestrator.web.rendering import drawn, page, poll_seconds

PAGE = 50
LONG_PAGE = 200
LOG_BYTES = 4096

After = Annotated[int | None, Query(ge=1, le=MAX_ID)]
Task = Annotated[str | None, Query(pattern=NAME_PATTERN, max_length=MAX_NAME)]

router = APIRouter(include_in_schema=False)


class Action(StrEnum):
    """What a user may do to a round."""

    CANCEL = "cancel"
    RETRY = "retry"


@router.get("/")
def list_rounds(
    request: Request, here: Here, user: Reader, state: RoundState | None = None, after: After = None
) -> Response:
    """Every round with its progress, the newest first."""
    part = Slice(after, PAGE)
    with here.database.read() as session:
        found = lookup.rounds(session, part, state)
        shown = {
            "lines": found.items,
            "arms": progress.arms(session, [line.round for line in found.items]),
            "counts": lookup.rounds_by_state(session),
            "newer": None if after is None else lookup.newer(session, part, state),
        }
    return page(request, "rounds.html", user, state=state, is_first=after is None, older=found.last, **shown)


@router.get("/rounds/{name}")
def show_round(request: Request, here: Here, user: Reader, name: Name) -> Response:
    """One round: how far it is, what it has found, and how far that can be believed."""
    found = overviews_of(request).of(name)
    logs = {run.job.id: end_of_log(here.home, run.job, LOG_BYTES) for run in found.running}
    with here.database.read() as session:
        workers = workers_of(session, [run.job for run in found.running])
    shown = {
        "found": found,
        "logs": logs,
        "workers": workers,  # as they are now: a worker that falls silent is no event
        "actions": _possible(found) if user.may_change(found.owner) else [],
        "has_ended": found.view.state.has_ended,
        "poll_seconds": poll_seconds(has_ended=True),
    }
    return page(request, "round.html", user, **shown, **drawn(request, found.charts))


def overviews_of(request: Request) -> Overviews:
    found: Overviews = request.app.state.overviews
    return found


def _possible(found: Overview) -> list[Action]:
    """What can be done to a round as it is now."""
    state, reason = found.view.state, found.view.reason
    may = {
        Action.CANCEL: chains.can_cancel(state),
        Action.RETRY: chains.can_retry(state, reason, found.unmeasured),
    }
    return [action for action, is_possible in may.items() if is_possible]


@router.get("/rounds/{name}/decisions")
def list_decisions(
    request: Request, here: Here, user: Reader, name: Name, task: Task = None, after: After = None
) -> Response:
    """Every decision of a round, or of one of its tasks, in the order in which they were taken."""
    with here.database.read() as session:
        has_ended = stored_round.find(session, name).state.has_ended
        found = progress.decisions(session, name, Slice(after, LONG_PAGE), task)
    on_task = overviews_of(request).of(name).tasks.get(task) if task else None
    shown = {
        "name": name,
        "task": task,
        "is_first": after is None,
        "chart": on_task and on_task.chart,
        "poll_seconds": poll_seconds(has_ended),
    }
    charts = drawn(request, [on_task.chart] if on_task else [])
    return page(request, "decisions.html", user, decisions=found.items, older=found.last, **shown, **charts)


@router.get("/rounds/{name}/jobs")
def list_jobs(
    request: Request,
    here: Here,
    user: Reader,
    name: Name,
    state: JobState | None = None,
    after: After = None,
) -> Response:
    """Every job of a round in the order in which they were made."""
    with here.database.read() as session:
        has_ended = stored_round.find(session, name).state.has_ended
        found = lookup.jobs(session, name, Slice(after, LONG_PAGE), state)
    shown = {
        "name": name,
        "state": state,
        "is_first": after is None,
        "poll_seconds": poll_seconds(has_ended),
    }
    return page(request, "jobs.html", user, jobs=found.items, older=found.last, **shown)


@router.get("/rounds/{name}/file", dependencies=[Depends(require(TokenScope.READ))])
def show_file(here: Here, name: Name) -> Response:
    """The round's file as it was submitted."""
    with here.database.read() as session:
        return PlainTextResponse(stored_round.find(session, name).source)


@router.get("/rounds/{name}/{action}", dependencies=[Depends(require(TokenScope.SUBMIT))])
def ask(request: Request, user: Reader, name: Name, action: Action) -> Response:
    """Asks whether this is meant; raises Forbidden, and Conflict where there is nothing to do."""
    found = overviews_of(request).of(name)
    if not user.may_change(found.owner):
        raise Forbidden(f"only whoever submitted {name} and administrators may {action} it")
    if action not in _possible(found):
        nothing = {Action.CANCEL: "it has ended", Action.RETRY: "everything that has ended was measured"}
        raise Conflict(f"there is nothing to {action} in round {name}: {nothing[action]}")
    return page(request, "confirm.html", user, name=name, state=found.view.state, action=action)


@router.post("/rounds/{name}/{action}")
def act(here: Here, user: Submitter, name: Name, action: Action) -> Response:
    """Does it, and goes back to the round."""
    done = {Action.CANCEL: api.cancel, Action.RETRY: api.retry}[action]
    done(here, name, user)
    return RedirectResponse(f"/rounds/{name}", 303)
