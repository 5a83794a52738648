"""Middleware around the application: refuses requests for other hosts and from the pages of others.

To every answer it adds headers that keep browsers from doing more than the pages ask for, a log line, and its time.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Collection
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.metrics import Metrics
from orchestrator.api.paths import template
from orchestrator.api.problems import problem

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
METHODS = SAFE_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

log = structlog.get_logger("fsq.http")


class Guard:
    """Lets requests through to an app; `hosts` are the names by which it may be called, without port.

    An app that `is_open` to whoever reaches it answers nothing that a proxy passes on: others could reach it then.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], max_body: int, metrics: Metrics, *, is_open: bool
    ) -> None:
        self._app = app
        self._max_body = max_body
        self._too_large = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {max_body:,} bytes"
        self._hosts = {host.lower() for host in hosts}
        self._metrics = metrics
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in POLICY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refusal = self._refusal(scope["method"], Headers(scope=scope))
            if refusal is None and scope["method"] == "HEAD":
                routed = {**scope, "method": "GET"}
                await self._app(routed, receive, _without_body(send_guarded))
                scope.update({**routed, "method": "HEAD"})  # with its route, for the log
            elif refusal is None:
                await self._app(scope, self._limited(receive), send_guarded)
            else:
                await problem(*refusal)(scope, receive, send_guarded)
        except Exception:
            if status != HTTPStatus.INTERNAL_SERVER_ERROR:  # that one has been answered, and logged
                raise
        finally:
            self._note(scope, status, time.perf_counter() - begin)

    def _limited(self, receive: Receive) -> Receive:
        """Raises HTTPException once a body of unknown length turns out too long."""
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:
                raise HTTPException(*self._too_large)
            return message

        return receive_limited

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host, *others = headers.getlist("host") or [""]
        if others or _name(host) not in self._hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, (
                f"this server does not go by the name {host!r}; allow it with --allow-host"
            )
        if self._is_open and any(name in headers for name in FORWARDED):
            return HTTPStatus.FORBIDDEN, (
                "a proxy has passed this on, and this server asks nobody for a token; make one and start it again: "
                "fsq token create NAME --scope admin"
            )
        if method not in SAFE_METHODS and not _is_own(headers, host):
            return HTTPStatus.FORBIDDEN, "a page of another origin may not change anything here"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._max_body:
            return self._too_large
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = template(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        about = {"round": "name", "job": "job_id"}
        given = scope.get("path_params", {})
        names = {label: given[name] for label, name in about.items() if name in given}
        log.info(
            "request",
            method=method,
            path=scope["path"],
            status=status,
            ms=round(1000 * seconds, 1),
            **names,
        )


def _without_body(send: Send) -> Send:
    """Sends a response's status and headers, what HEAD asks for of GET: with it a response, even a stream, ends."""
    is_done = False

    async def send_head(message: Message) -> None:
        nonlocal is_done
        if message["type"] == "http.response.start":
            await send(message)
        elif not is_done:
            is_done = True
            await send({"type": "http.response.body"})

    return send_head


def names_of(host: str) -> set[str]:
    """The names by which a server that listens on an address is called; no page can pretend the loopback ones."""
    return {*LOOPBACK_NAMES, f"[{host}]" if ":" in host else host}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _is_own(headers: Headers, host: str) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in {f"http://{host}".lower(), f"https://{host}".lower()}
