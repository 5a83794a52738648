"""The OpenAPI document: every answer is as it says (schemathesis), and its examples are real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import Fsq, environment, fsq, home, write_round  # noqa: F401  (fixtures)
from tests.acceptance.test_serve import serving

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_document__every_answer_is_as_it_says(
    fsq: Fsq,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    home: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """On a server with a finished round, which nothing sets going again: its event stream ends."""
    assert fsq("run", write_round(tmp_path)).returncode == 0
    text = fsq("token", "create", "tester", "--scope", "admin").stdout.strip()
    with serving(environment) as (url, _):
        command = [
            SCHEMATHESIS,
            "run",
            f"{url}/api/v1/openapi.json",
            *("--header", f"Authorization: Bearer {text}"),
            *("--checks", "all", "--max-examples", "20", "--seed", "1"),
            # What passes for a round by the document, which calls it a string, may still be refused.
            *("--exclude-checks", "positive_data_acceptance"),
            *("--request-timeout", "20", "--continue-on-failure", "--no-color"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
