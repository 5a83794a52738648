"""The client that speaks to a server: FSQ_SERVER, with FSQ_TOKEN."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2 as httpx
from pydantic import BaseModel, ValidationError

from db.tokens import FORM as TOKEN
from orchestrator.client import PAGE
from orchestrator.errors import (
    BadInput,
    BadRound,
    BrokenRound,
    Conflict,
    FsqError,
    NotFound,
    OutOfReach,
    Problem,
    Refused,
    no_such_round,
)
from orchestrator.rounds import round_file
from orchestrator.rounds.variants import NAME_PATTERN
from orchestrator.views.forecast import Forecast
from orchestrator.views.shapes import (
    ChangeView,
    DecisionView,
    EvaluationView,
    JobView,
    Listed,
    Page,
    RoundLine,
    RoundView,
    SubmissionView,
    WorkerView,
)

V = TypeVar("V", bound=BaseModel)
PREPARATION_SECONDS = 3600.0  # a submission is answered once its data are downloaded and built


class HttpClient:
    """Talks to an fsq server; raises the errors that the database client would, or OutOfReach, or Refused."""

    def __init__(self, server: str, token: str | None) -> None:
        self._server = server.rstrip("/")
        if (
            re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[^/@\[\]:\s]+)(:[0-9]+)?(/[^?#\s]*)?", self._server)
            is None
        ):
            raise BadInput(
                "FSQ_SERVER is no address such as http://127.0.0.1:8765 (user and password do not belong in it)"
            )
        if token is not None and TOKEN.fullmatch(token.strip()) is None:
            raise BadInput("FSQ_TOKEN is no token; they look like fsq_1_... (`fsq token create`)")
        headers = {"Authorization": f"Bearer {token.strip()}"} if token else {}
        try:
            self._http = httpx.Client(base_url=f"{self._server}/api/v1", headers=headers, timeout=30)
        except (httpx.InvalidURL, ValueError) as error:
            raise BadInput(f"FSQ_SERVER={server} is no address: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def rounds(self) -> Iterator[RoundLine]:
        return self._pages("/rounds", RoundLine)

    def round(self, name: str) -> RoundView:
        return self._get(_path(name), RoundView)

    def jobs(self, name: str) -> Iterator[JobView]:
        return self._pages(_path(name, "jobs"), JobView)

    def decisions(self, name: str) -> Iterator[DecisionView]:
        return self._pages(_path(name, "decisions"), DecisionView)

    def evaluations(self, job_id: int) -> list[EvaluationView]:
        return self._list(f"/jobs/{job_id}/metrics", EvaluationView)

    def workers(self) -> list[WorkerView]:
        return self._list("/workers", WorkerView)

    def cancel(self, name: str) -> ChangeView:
        return _as(ChangeView, self._request("POST", _path(name, "cancel")))

    def retry(self, name: str) -> ChangeView:
        return _as(ChangeView, self._request("POST", _path(name, "retry")))

    def lines(self, name: str, form: str) -> Iterator[str]:
        where = _path(name, "summary") if form == "summary" else _path(name, "records")
        with (
            self._reaching(),
            self._http.stream("GET", where, params={"format": form} if form == "csv" else {}) as response,
        ):
            kind = "text/plain" if form == "summary" else "text/csv" if form == "csv" else "application/jsonl"
            if not (response.is_success and response.headers.get("content-type", "").startswith(kind)):
                response.read()
                raise _error(response)
            yield from response.iter_lines()

    def submit(self, path: Path, after: str | None) -> SubmissionView:
        return _as(SubmissionView, self._post_round(path, after, dry_run=False))

    def forecast(self, path: Path, after: str | None = None) -> Forecast:
        return _as(Forecast, self._post_round(path, after, dry_run=True))

    def _post_round(self, path: Path, after: str | None, *, dry_run: bool) -> httpx.Response:
        today = datetime.now().astimezone().date().isoformat()  # here, which need not be the server's
        params = {"today": today} | ({"dry_run": "true", "plan": "true"} if dry_run else {})
        params |= {"after": after} if after else {}
        headers = {"Content-Type": "application/yaml", "X-Round-File": path.name.encode("ascii", "replace")}
        return self._request(
            "POST",
            "/rounds",
            params=params,
            headers=headers,
            content=round_file.read(path).text.encode(),
            timeout=PREPARATION_SECONDS,
        )

    def _pages(self, where: str, kind: type[V]) -> Iterator[V]:
        params: dict[str, Any] = {"limit": PAGE}
        while True:
            page = _as(Page[kind], self._request("GET", where, params=params))  # type: ignore[valid-type]
            yield from page.items
            if page.next is None:
                return
            params["cursor"] = page.next

    def _list(self, where: str, kind: type[V]) -> list[V]:
        return list(_as(Listed[kind], self._request("GET", where)).items)  # type: ignore[valid-type]

    def _get(self, where: str, kind: type[V]) -> V:
        return _as(kind, self._request("GET", where))

    def _request(self, method: str, where: str, **options: Any) -> httpx.Response:
        with self._reaching():
            response = self._http.request(method, where, **options)
        if not response.is_success:
            raise _error(response)
        return response

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise OutOfReach(f"the server {self._server} does not answer: {error}") from error


def _path(name: str, *rest: str) -> str:
    """Raises NotFound for what no round can be called, before it becomes part of a path."""
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise no_such_round(name)
    return "/".join(("/rounds", name, *rest))


def _as(kind: type[V], response: httpx.Response) -> V:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        if not response.headers.get("content-type", "").startswith("application/json"):
            raise _no_fsq(response) from None
        one = error.errors()[0]
        place = ".".join(map(str, one["loc"])) or "its answer"
        raise OutOfReach(
            f"the server at {response.url} is of another version: {place}: {one['msg']}"
        ) from None


def _no_fsq(response: httpx.Response) -> OutOfReach:
    """What to say of an answer that comes from something before the server, or in its place."""
    return OutOfReach(f"{response.url} answered {response.status_code}, and not as an fsq server does")


def _error(response: httpx.Response) -> FsqError:
    """What a problem document says, as the error that the database client would have raised."""
    try:
        problem = response.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return _no_fsq(response)
    if response.status_code == 422 and {"name", "problems"} <= problem.keys():
        return BadRound(problem["name"], [Problem(**{"line": None} | each) for each in problem["problems"]])
    kinds: dict[int, Callable[[str], FsqError]] = {
        401: Refused,
        403: Refused,
        404: NotFound,
        409: Conflict,
        422: BadInput,
    }
    kinds |= {501: BrokenRound, 503: OutOfReach}
    return kinds.get(response.status_code, FsqError)(detail)
