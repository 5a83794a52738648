"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from db.tables import JobState, RoundState
from orchestrator.caveats import EXPLANATIONS, Caveat
from orchestrator.cli import app

CHECKOUT = Path(__file__).resolve().parent.parent


def test_readme__names_every_command_and_each_has_help() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert command.help, name
        assert f"fsq {name}" in readme, name


def test_architecture__state_tables_name_the_states_of_the_code() -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    tables = re.findall(r"\| from \| event \| to \|\n\|[- |]+\n((?:\|.*\n)+)", text)
    found = [
        {cell.strip() for row in table.splitlines() for cell in row.split("|")[1:4:2]} for table in tables
    ]
    assert found == [{"(new)", *RoundState}, {"(new)", *JobState}]


def test_caveats__each_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Caveat)
