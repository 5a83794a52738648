"""Rounds: submit, list, follow, read, cancel, retry."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from enum import StrEnum
from itertools import chain, islice
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from db.tables import JobState, Round, RoundState
from orchestrator import interventions
from orchestrator.api import examples
from orchestrator.api.access import Submitter, User, require, token_of
from orchestrator.api.paging import MAX_ID, Cursor, Limit, answer, is_known, page, part, tag
from orchestrator.api.problems import Forbidden, UnsupportedMediaType, documented
from orchestrator.api.service import Here, Service
from orchestrator.findings import exports
from orchestrator.messages import one_line
from orchestrator.rounds import stored_round
from orchestrator.rounds.catalogue import MAX_NAME
from orchestrator.rounds.round_file import RoundFile, parse, parse_json
from orchestrator.rounds.variants import NAME_PATTERN
from orchestrator.token_scope import TokenScope
from orchestrator.views import lookup, progress
from orchestrator.views.forecast import Forecast
from orchestrator.views.lookup import events_since
from orchestrator.views.shapes import (
    ChangeView,
    DecisionView,
    JobView,
    Page,
    RoundLine,
    RoundView,
    SubmissionView,
)

KEEPALIVE_SECONDS = 15
LINES_AT_ONCE = 500

Name = Annotated[str, Path(description="The round's name.", pattern=NAME_PATTERN, max_length=MAX_NAME)]

router = APIRouter(prefix="/rounds", tags=["rounds"], dependencies=[Depends(require(TokenScope.READ))])


class RecordFormat(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


MEDIA_TYPES = {RecordFormat.JSONL: "application/jsonl", RecordFormat.CSV: "text/csv"}


@router.post(
    "",
    status_code=201,
    response_model=SubmissionView | Forecast,
    responses=documented(404, 409, 413, 415, 422) | examples.SUBMITTED,
    openapi_extra={"requestBody": examples.ROUND_BODY},
)
async def submit(
    request: Request,
    response: Response,
    here: Here,
    user: Submitter,
    dry_run: Annotated[
        bool,
        Query(description="Store nothing, and say what the round would do; errors are those of submitting."),
    ] = False,
    plan: Annotated[
        bool,
        Query(description="With `dry_run`: also where its name is taken, or its parent is not there yet."),
    ] = False,
    after: Annotated[
        str | None, Query(description="Start once this round has finished.", max_length=MAX_NAME)
    ] = None,
    today: Annotated[
        date | None, Query(description="What {date} stands for; default: the server's day.")
    ] = None,
    file_name: Annotated[
        str, Header(alias="X-Round-File", description="Named in errors.", max_length=200)
    ] = "round",
) -> SubmissionView | Forecast:
    """Submit a round as YAML or JSON; the same round again changes nothing.

    Answers once the round's data are downloaded and its examples built, which may take minutes the first time.
    Relative paths are taken from the first of the server's data folders; no path may lead out of them.
    """
    kind = request.headers.get("content-type", "")
    try:
        content = await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the client went away before it had sent the round") from None

    def prepare() -> SubmissionView | Forecast:
        file = _round_file(kind, content, one_line(file_name))
        resolved = here.intake.read(file, here.roots[0], after, today=today)
        if not dry_run:
            return here.intake.submit(resolved, file.text, by=user.name)
        found = here.intake.forecast(resolved)
        if not plan:
            found.refuse()
        return found

    done = await to_thread.run_sync(prepare, limiter=here.preparations)
    if isinstance(done, SubmissionView):
        response.headers["Location"] = f"{request.url.path}/{done.round}"
    response.status_code = 201 if isinstance(done, SubmissionView) and done.is_new else 200
    return done


def _round_file(content_type: str, content: bytes, name: str) -> RoundFile:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return parse_json(content, name)
    if kind in {"", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"}:
        return parse(content, name)
    raise UnsupportedMediaType(f"a round is application/yaml or application/json, not {one_line(kind, 60)}")


@router.get("", response_model=Page[RoundLine], responses=documented(422) | examples.NOT_MODIFIED)
def list_rounds(
    request: Request,
    here: Here,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: Annotated[RoundState | None, Query(description="Only rounds in this state.")] = None,
) -> Response:
    """Every round with its progress, the newest first."""
    with here.database.read() as session:
        return answer(
            request,
            here,
            lookup.stamp(session),
            lambda: page(lookup.rounds(session, part(cursor, limit), state)),
        )


@router.get("/{name}", response_model=RoundView, responses=documented(404, 422) | examples.NOT_MODIFIED)
def get_round(request: Request, here: Here, name: Name) -> Response:
    """One round: what was asked for, and how far it is."""
    with here.database.read() as session:
        return answer(
            request, here, _stamp(stored_round.find(session, name)), lambda: progress.round_(session, name)
        )


@router.get("/{name}/jobs", responses=documented(404, 422))
def list_jobs(
    here: Here,
    name: Name,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
) -> Page[JobView]:
    """The jobs of a round in the order in which they were made."""
    with here.database.read() as session:
        return page(lookup.jobs(session, name, part(cursor, limit), state))


@router.get("/{name}/decisions", responses=documented(404, 422))
def list_decisions(here: Here, name: Name, limit: Limit = 50, cursor: Cursor = None) -> Page[DecisionView]:
    """The decisions of a round in the order in which they were taken."""
    with here.database.read() as session:
        return page(progress.decisions(session, name, part(cursor, limit)))


@router.get(
    "/{name}/records",
    response_class=StreamingResponse,
    responses=documented(404, 422) | examples.RECORDS | examples.NOT_MODIFIED,
)
def get_records(
    request: Request,
    here: Here,
    name: Name,
    form: Annotated[RecordFormat, Query(alias="format")] = RecordFormat.JSONL,
) -> Response:
    """The records of a round so far (docs/records.md), streamed."""
    headers = tag(f"{_stamp_of(here, name)}.{form}")
    if is_known(request, headers):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="_{name}_records.{form}"'
    lines = exports.lines(here.database, name, form)
    first = list(islice(lines, 1))  # what cannot be answered is told as an error, not as the end of a stream
    return StreamingResponse(_chunks(chain(first, lines)), media_type=MEDIA_TYPES[form], headers=headers)


@router.get(
    "/{name}/summary",
    response_class=PlainTextResponse,
    responses=documented(404, 422) | examples.SUMMARY | examples.NOT_MODIFIED,
)
def get_summary(request: Request, here: Here, name: Name) -> Response:
    """The summary of a round so far, as text."""
    headers = tag(_stamp_of(here, name))
    if is_known(request, headers):
        return Response(status_code=304, headers=headers)
    text = "".join(f"{line}\n" for line in exports.lines(here.database, name, "summary"))
    return PlainTextResponse(text, headers=headers)


@router.get(
    "/{name}/events",
    response_class=StreamingResponse,
    responses=documented(404, 422) | examples.EVENTS,
)
async def get_events(
    request: Request,
    here: Here,
    name: Name,
    last_event_id: Annotated[
        int, Header(ge=0, le=MAX_ID, description="The number of the last event that was received.")
    ] = 0,
) -> Response:
    """What happens in a round, as server-sent events from the first one on, or from after `Last-Event-ID`.

    The stream ends with the round; a client that then asks again with `Last-Event-ID` gets 204.
    """

    def find() -> tuple[int, int, bool]:
        with here.database.read() as session:
            row = stored_round.find(session, name)
            known = last_event_id if last_event_id <= row.n_events else 0  # else it is of another database
            return row.id, known, row.state.has_ended and known == row.n_events

    round_id, known, is_over = await run_in_threadpool(find)
    if is_over:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = _events(here, round_id, known, token_of(request))
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _events(here: Service, round_id: int, number: int, token: str | None) -> AsyncIterator[bytes]:
    """The events after one of this number, for as long as the token is good."""

    def ask() -> tuple[list[tuple[int, str, str]], bool]:
        with here.database.read() as session:
            found = events_since(session, round_id, number)
            row = session.get_one(Round, round_id)
            lines = [(event.number, event.kind.value, event.model_dump_json()) for event in found]
            return lines, row.state.has_ended and row.n_events == (lines[-1][0] if lines else number)

    check_at = time.monotonic() + KEEPALIVE_SECONDS
    while True:
        if time.monotonic() >= check_at:
            if await run_in_threadpool(here.access.user, token) is None:
                return
            check_at = time.monotonic() + KEEPALIVE_SECONDS
        found, is_last = await run_in_threadpool(ask)
        for number, kind, data in found:
            yield format_sse_event(data_str=data, event=kind, id=str(number))
        if is_last or here.watch.is_stopping:
            return
        if not await here.watch.wait(round_id, number, KEEPALIVE_SECONDS):
            yield KEEPALIVE_COMMENT


@router.post("/{name}/cancel", responses=documented(404, 422))
def cancel(here: Here, name: Name, user: Submitter) -> ChangeView:
    """End a round: nothing more is started, what is decided stays. Twice changes nothing."""
    with here.database.write() as session:
        _check_owner(lookup.submitted_by(session, name), name, user)
        return interventions.cancel(session, name, by=user.name, now=datetime.now(UTC))


@router.post("/{name}/retry", responses=documented(404, 422))
def retry(here: Here, name: Name, user: Submitter) -> ChangeView:
    """Run again what could not be measured, or let a cancelled round go on. What was measured stays."""
    with here.database.write() as session:
        _check_owner(lookup.submitted_by(session, name), name, user)
        return interventions.retry(session, name, by=user.name, now=datetime.now(UTC))


def _check_owner(owner: str | None, name: str, user: User) -> None:
    """Raises Forbidden for the round of somebody else, but for administrators."""
    if not user.may_change(owner):
        owner = owner or "somebody unknown"
        raise Forbidden(f"{name} was submitted by {owner}; cancelling and retrying it needs the scope admin")


def _stamp(row: Round) -> str:
    return f"{row.digest[:16]}.{row.n_events}"


def _stamp_of(here: Service, name: str) -> str:
    with here.database.read() as session:
        return _stamp(stored_round.find(session, name))


def _chunks(lines: Iterator[str]) -> Iterator[str]:
    while chunk := list(islice(lines, LINES_AT_ONCE)):
        yield "".join(f"{line}\n" for line in chunk)
