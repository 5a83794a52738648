"""The OpenAPI document: every answer is as it says (schemathesis), and its examples are real.

`FSQ_WRITE_EXAMPLES=1 pytest tests/api/test_document.py` takes the examples anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from orchestrator.api import examples
from tests.acceptance.conftest import FSQ, write_round
from tests.acceptance.test_serve import serving

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
TOLD = {"content-type", "content-length", "location"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a finished round, which nothing sets going again: its event stream ends."""
    folder = tmp_path_factory.mktemp("server")
    environment = {"FSQ_HOME": str(folder / "home"), "PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "PASSIVE"}
    write_round(folder)

    def fsq(*arguments: str) -> str:
        return subprocess.run(
            [FSQ, *arguments], env=environment, cwd=folder, check=True, capture_output=True, text=True
        ).stdout

    fsq("run", "small.yaml")
    token = fsq("token", "create", "tester", "--scope", "admin").strip()
    with (
        serving(environment) as (url, _),
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client,
    ):
        yield client


def test_document__every_answer_is_as_it_says(server: httpx.Client, tmp_path: Path) -> None:
    command = [
        SCHEMATHESIS,
        "run",
        f"{server.base_url}/api/v1/openapi.json",
        *("--header", f"Authorization: {server.headers['authorization']}"),
        *("--checks", "all", "--max-examples", "20", "--seed", "1"),
        # What passes for a round by the document, which calls it a string, may still be refused.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--request-timeout", "20", "--continue-on-failure", "--no-color"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


ROUND = """\
round: again
like: small
seeds: [1]
variants: {from: small, where: any, top: 1}
"""


def answers(server: httpx.Client) -> dict[str, dict[str, dict[str, Any]]]:
    """What the server answers, by operation, status and media type."""
    job = server.get("/api/v1/rounds/small/jobs").json()["items"][1]["id"]
    found: dict[str, dict[str, dict[str, Any]]] = {}

    def ask(method: str, path: str, **options: Any) -> None:
        filled = path.replace("{name}", "small").replace("{job_id}", str(job))
        response = server.request(method, filled, **options)
        media_type = response.headers["content-type"].partition(";")[0]
        is_text = "json" not in media_type or media_type == "application/jsonl"
        content = response.text[:2000] if is_text else response.json()
        found.setdefault(f"{method} {path}", {})[str(response.status_code)] = {media_type: content}

    for path, operations in server.get("/api/v1/openapi.json").json()["paths"].items():
        if "get" in operations:
            ask("GET", path)
    ask("GET", "/api/v1/rounds/{name}/jobs", params={"limit": 2})
    yaml = {"Content-Type": "application/yaml"}
    ask("POST", "/api/v1/rounds", params={"dry_run": True}, content=ROUND, headers=yaml)
    ask("POST", "/api/v1/rounds", content=ROUND, headers=yaml)
    ask("POST", "/api/v1/rounds", content=ROUND, headers=yaml)
    ask("POST", "/api/v1/rounds", content=ROUND.replace("[1]", "[2]"), headers=yaml)
    ask("POST", "/api/v1/rounds", content=ROUND.replace("seeds", "seads"), headers=yaml)
    ask("POST", "/api/v1/rounds/{name}/cancel")
    ask("POST", "/api/v1/rounds/{name}/retry")
    found["POST /api/v1/rounds"]["request"] = {"application/yaml": ROUND}
    return found


def shape(value: Any) -> Any:
    """A value with its kinds in place of its contents; of a list, its first item."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


def test_examples__are_answers_of_a_real_server(server: httpx.Client) -> None:
    found = answers(server)
    if os.environ.get("FSQ_WRITE_EXAMPLES"):
        examples.FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    written = json.loads(examples.FILE.read_text(encoding="utf-8"))
    assert shape(written) == shape(found)


def test_document__has_an_example_for_every_answer_that_can_be_had(server: httpx.Client) -> None:
    document = server.get("/api/v1/openapi.json").json()
    bare = [
        f"{method} {path} {status} {media_type}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for status, response in operation["responses"].items()
        for media_type, content in response.get("content", {}).items()
        if status in {"200", "201"} and "example" not in content and media_type != "text/csv"
    ]
    assert bare == []
    assert document["paths"]["/api/v1/rounds"]["post"]["requestBody"]["content"]["application/yaml"][
        "example"
    ]
