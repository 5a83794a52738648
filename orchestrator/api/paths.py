"""Paths with their parameters unfilled, as the OpenAPI document and the metrics name them."""

from __future__ import annotations

from starlette.types import Scope


def template(scope: Scope) -> str:
    """The path that was asked for with its parameters unfilled: /api/v1/rounds/{name}."""
    route: str | None = getattr(scope.get("route"), "path", None)
    if route is None:
        return "unmatched"
    mounted = scope["path"].split("/")[: -route.count("/")] if route.count("/") else []
    return "/".join(mounted) + route
