"""The libraries that compute are loaded by what computes, and by nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", ["--help", "status"])
def test_commands__that_only_show_load_no_library_that_computes(command: str, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from orchestrator.cli import app\n"
        f"result = CliRunner().invoke(app, [{command!r}], env={{'FSQ_HOME': {str(tmp_path)!r}}})\n"
        "assert result.exit_code == 0, result.output\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("numpy", "pandas", "rich", "scipy", "torch") if f"'{name}'" in loaded]
