"""From templates to responses: one look for all pages, each with an ETag of what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.api.access import Access, User, token_of
from orchestrator.findings.caveats import EXPLANATIONS
from orchestrator.web import words
from orchestrator.web.drawings import Data, Drawings

STATIC = Path(__file__).with_name("static")


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("orchestrator.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    spoken = (
        words.percent,
        words.delta,
        words.interval,
        words.signed,
        words.verdict,
        words.selection,
        words.moment,
        words.happened,
        words.lasted,
    )
    found.filters |= {function.__name__: function for function in spoken}
    found.filters["age"] = lambda at: words.age(at, datetime.now(UTC))
    found.globals |= {
        "version": version("fsq"),
        "static": _versioned,
        "explanations": EXPLANATIONS,
    }
    return found


@cache
def _versioned(name: str) -> str:
    """The address of a static file, another one whenever its content is."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"


def page(request: Request, template: str, user: User | None, status: int = 200, /, **values: Any) -> Response:
    """A template as a response; without a body where the browser has this version already."""
    access: Access = request.app.state.service.access
    shown = {
        "user": user,
        "signs_in": not access.is_open,
        "path": request.url.path,
        "is_waiting": False,
    } | values
    html = _templates().get_template(template).render(shown).encode()
    tag = f'W/"{hashlib.sha256(html).hexdigest()[:24]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Cookie"}
    if status == 200 and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(html, status, headers)


def drawn(request: Request, charts: Sequence[Data]) -> dict[str, Any]:
    """What a template needs to show these charts; `is_waiting` where some are still being drawn."""
    drawings: Drawings = request.app.state.drawings
    ended = drawings.of(charts)
    return {"charts": ended, "is_waiting": len(ended) < len(set(charts))}


def poll_seconds(has_ended: bool) -> int:
    """How often a page without a stream of events looks again: what has ended may be tried again."""
    return 15 if has_ended else 3


def visitor(request: Request) -> User | None:
    """Whoever asks, signed in or not."""
    access: Access = request.app.state.service.access
    return access.user(token_of(request))
