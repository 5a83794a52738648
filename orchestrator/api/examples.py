"""The parts of the OpenAPI document that are written out: bodies that are not JSON, and real examples.

The examples in examples.json are answers of a real server; a test asks for them again and compares their shape.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("examples.json")

Responses = dict[int | str, dict[str, Any]]

NOT_MODIFIED: Responses = {304: {"description": "Nothing has changed since the version in `If-None-Match`."}}
_SUBMISSION = [{"$ref": "#/components/schemas/SubmissionView"}, {"$ref": "#/components/schemas/Forecast"}]
SUBMITTED: Responses = {
    200: {
        "description": "The same round is known already; or what it would do, for a dry run.",
        "content": {"application/json": {"schema": {"anyOf": _SUBMISSION}}},
    },
    201: {
        "description": "The round is stored; its jobs are queued.",
        "headers": {"Location": {"description": "Of the round.", "schema": {"type": "string"}}},
    },
}


@cache
def _real() -> dict[str, Any]:
    """Examples by operation, `METHOD path`."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def _text(media_type: str, description: str) -> Responses:
    return {200: {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}}


RECORDS: Responses = {
    200: {
        "description": "One record a line; see docs/records.md.",
        "content": {
            "application/jsonl": {"schema": {"type": "string"}},
            "text/csv": {"schema": {"type": "string"}},
        },
    }
}
SUMMARY = _text("text/plain", "Tables, decisions, caveats.")
LOG = _text("text/plain", "The end of the log.")
METRICS = _text("text/plain", "In Prometheus's text format.")
EVENTS: Responses = {
    200: {
        "description": "One event a message: its kind as `event`, its number as `id`, an EventView as `data`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "The round has ended, and its last event is the one in `Last-Event-ID`."},
}

ROUND_BODY = {
    "required": True,
    "description": "A round (docs/rounds.md).",
    "content": {
        "application/yaml": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "object"}},
    },
}


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a real example in every body that has one."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            example = _real().get(f"{method.upper()} {path}", {})
            bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for which, body in bodies.items():
                for media_type, content in body.get("content", {}).items():
                    if value := example.get(which, {}).get(media_type):
                        content["example"] = value
    return document
