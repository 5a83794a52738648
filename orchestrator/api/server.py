"""Running the application: where it listens, and when it refuses to."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from datetime import UTC, datetime
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from db import tokens
from db.session import Database
from orchestrator import logs
from orchestrator.api.app import create_app
from orchestrator.api.guard import is_loopback, names_of
from orchestrator.errors import BadInput, Conflict
from orchestrator.intake import Prepare
from orchestrator.settings import Settings

SHUTDOWN_SECONDS = 10  # for requests that are being answered

log = structlog.get_logger("fsq.server")


def serve(database: Database, prepare: Prepare, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; raises BadInput where that would not be safe."""
    logs.configure(settings.log_format)
    is_open = _is_open(database, settings)
    app = create_app(
        database,
        prepare,
        home=settings.home,
        roots=settings.roots,
        hosts=names_of(settings.host) | set(settings.allowed_hosts),
        is_open=is_open,
        snapshot_bytes=settings.snapshot_bytes,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with _listening(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", open=is_open)
        _Server(config, app).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Raises BadInput for an address that is not this machine's, Conflict for one that is in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        # with its protocol, or asyncio leaves Nagle's delay on
        listener = socket.socket(family, kind, protocol)
        with ExitStack() as on_failure:
            on_failure.enter_context(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
            on_failure.pop_all()
        return listener
    except OSError as error:
        problem = Conflict if error.errno == errno.EADDRINUSE else BadInput
        raise problem(f"cannot listen on {host} port {port}: {error.strerror}") from None


def _is_open(database: Database, settings: Settings) -> bool:
    """Whether nobody needs a token: on loopback only, under its own names, and as long as none was ever made.

    A server that had tokens does not open because the last one has expired. Raises BadInput where tokens are needed
    and none is valid.
    """
    is_private = is_loopback(settings.host) and all(map(is_loopback, settings.allowed_hosts))
    with database.read() as session:
        made = tokens.all_of(session)
        valid = [token for token in made if tokens.is_valid(token, datetime.now(UTC))]
    if not is_private and not valid:
        raise BadInput(
            f"on {settings.host} others could reach the server, so it needs tokens, and there is none that is "
            "valid; make one: fsq token create NAME --scope admin"
        )
    if made and not valid:
        log.warning("no token is valid any more; make one: fsq token create NAME --scope admin")
    return is_private and not made


class _Server(uvicorn.Server):
    """Ends the event streams when it is told to stop, so that it need not wait for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._watch = app.state.service.watch

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._watch.is_stopping = True
        super().handle_exit(sig, frame)
