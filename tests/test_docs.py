"""The documents say what the code does."""

from __future__ import annotations

import dis
import inspect
import re
import shlex
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from db.tables import JobState, RoundState
from orchestrator.audit.finding import Check
from orchestrator.cli import app
from orchestrator.findings.caveats import EXPLANATIONS, Caveat
from orchestrator.rounds.reading import parse_round, validate
from orchestrator.rounds.round_file import parse
from orchestrator.rounds.spec import RoundSpec
from orchestrator.rules.registry import BUILT_IN
from orchestrator.settings import Settings
from tests.command_lines import Words, check, commands_of, in_page
from worker.job import task_kinds

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = {
    page.name: page.read_text() for page in [CHECKOUT / "README.md", *sorted(CHECKOUT.glob("docs/*.md"))]
}


def test_readme__names_every_command_and_each_has_help() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert command.help, name
        assert f"fsq {name}" in readme, name


COMMANDS = {name: list(in_page(page)) for name, page in PAGES.items()}


@pytest.mark.parametrize(("page", "words"), commands_of(COMMANDS))
def test_commands__exist_with_their_options(page: str, words: Words) -> None:
    check(page, words)


def test_commands__are_found_wherever_they_stand() -> None:
    assert ["token", "create", "anna", "--scope", "admin"] in COMMANDS["deployment.md"]  # docker compose run
    assert ["run", "examples/real.yaml"] in COMMANDS["first-real-round.md"]  # a plain block
    assert ["serve", "--help"] in COMMANDS["README.md"]  # FSQ_HOME=... .venv/bin/fsq in the text
    assert ["submit", "ROUND.yaml", "--after", "OTHER", "--help"] in COMMANDS[
        "chained-rounds.md"
    ]  # over two lines


BLOCKS = [
    (name, block) for name, page in PAGES.items() for block in re.findall(r"(?ms)^```yaml\n(.*?)^```$", page)
]
OTHER_FILES = {("deployment.md", "groups"), ("reliability.md", "NCCL error|Xid 79")}  # by their first key
WHOLE = """
round: whole
model: {random: {layers: 4, dim: 64, vocab: 256}, tokenizer: bytes}
stages: [{name: quick, steps: 40}, {name: med, steps: 80}]
tasks: {sudoku4: {kind: sudoku, size: 4, train: 1000, val: 100}}
variants: {scalar_l1: {layer_start: 1}}
"""


def test_rounds__are_in_order_as_they_stand() -> None:
    """Those that are whole by themselves, parts of one with the rest of another."""
    whole = parse_round(WHOLE.encode(), "whole")[0]
    checked, others = 0, set()
    for page, block in BLOCKS:
        file = parse(block.encode(), page)
        if not file.data.keys() <= {*RoundSpec.model_fields, "like"}:
            others.add((page, next(iter(file.data))))
            continue
        if not file.data.keys() & {"model", "like"}:
            file.data = parse(WHOLE.encode(), page).data | file.data
        validate(file, today=date(2026, 11, 24), known=lambda name: whole.model_dump(mode="json"))
        checked += 1
    assert checked > 10
    assert others == OTHER_FILES


def opens_a_client(command: Callable[..., object]) -> bool:
    """Whether a command asks a server where there is one, itself or by another function of its module."""
    found: set[str] = set()
    left = [command]
    while left:
        loaded = (step for step in dis.get_instructions(left.pop()) if step.opname == "LOAD_GLOBAL")
        new = {step.argval for step in loaded} - found
        found |= new
        called = filter(inspect.isfunction, map(command.__globals__.get, new))
        left += [function for function in called if function.__module__ == command.__module__]
    return "open_client" in found


def test_readme__names_the_commands_that_speak_to_a_server() -> None:
    (listed,) = re.findall(
        r"With `FSQ_SERVER` \(and `FSQ_TOKEN`\) (.*?)\s+speak\s", PAGES["README.md"], re.DOTALL
    )
    callbacks = {command.name: command.callback for command in app.registered_commands}
    speaking = {name for name, callback in callbacks.items() if callback and opens_a_client(callback)}
    assert set(re.split(r",\s+|\s+and\s+", listed)) == speaking


SHOWN = re.compile(r"```\n\$ fsq (tasks show .*)\n((?:.*\n)*?)```\n")
TASKS_PAGE = CHECKOUT / "docs" / "tasks.md"


@pytest.mark.parametrize(
    "block", SHOWN.findall(TASKS_PAGE.read_text()), ids=lambda block: block[0].split()[2]
)
def test_tasks__examples_are_what_the_commands_print(block: tuple[str, str], shared_data: Path) -> None:
    command, shown = block
    arguments = [
        str(shared_data / word.removeprefix("../shared/data/")) if word.startswith("../shared") else word
        for word in shlex.split(command)
    ]
    printed = CliRunner().invoke(app, arguments)

    assert printed.exit_code == 0, printed.output
    report, _, example = printed.output.partition("\n\n")
    assert shown.strip("\n") in (report.strip("\n"), example.strip("\n"))


def test_audit_of_the_predecessor__is_what_the_command_prints(shared_data: Path) -> None:
    page = (CHECKOUT / "docs" / "audit-of-the-predecessor.md").read_text()
    prose, _, shown = page.partition("\n---\n\n")
    (command,) = re.findall(r"(?m)^fsq (audit .*)$", prose)
    arguments = [word.replace("../shared/data", str(shared_data)) for word in command.split()]
    printed = CliRunner().invoke(app, arguments)

    assert printed.exit_code == 0, printed.output
    assert printed.stdout == shown


def test_audit_of_the_predecessor__figures_of_the_table_are_found() -> None:
    page = (CHECKOUT / "docs" / "audit-of-the-predecessor.md").read_text()
    prose, _, shown = page.partition("\n---\n\n")
    found = re.sub(r"\\(.)", r"\1", shown)
    cells = [row.rstrip(" |").rpartition(" | ")[2] for row in re.findall(r"(?m)^\| .*$", prose)[2:]]
    figures = [figure for cell in cells for figure in re.findall("`([^`]+)`", cell)]
    assert len(figures) > 30
    assert [figure for figure in figures if figure not in found] == []


def test_history__names_every_check() -> None:
    page = (CHECKOUT / "docs" / "history.md").read_text()
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == [*Check]


def test_tasks__names_every_kind_and_shows_the_plug_in_whole() -> None:
    page = TASKS_PAGE.read_text()
    for kind in task_kinds():
        assert f"### {kind}\n" in page
        assert f"$ fsq tasks show {kind} " in page
    plug_in = CHECKOUT / "examples" / "task_plugin"
    assert f"```python\n{(plug_in / 'fsq_reversal.py').read_text()}```" in page
    assert f"```toml\n{(plug_in / 'pyproject.toml').read_text()}```" in page


def test_evidence__has_every_caveat_and_rule_and_shows_the_plug_in_whole() -> None:
    page = (CHECKOUT / "docs" / "evidence.md").read_text()
    for caveat, explanation in EXPLANATIONS.items():
        assert f"| `{caveat}` | {explanation} |" in page
    for rule in BUILT_IN:
        assert f"| `{rule}` | " in page
    plug_in = CHECKOUT / "examples" / "rule_plugin"
    assert f"```python\n{(plug_in / 'fsq_majority.py').read_text()}```" in page
    assert f"```toml\n{(plug_in / 'pyproject.toml').read_text()}```" in page


def test_architecture__state_tables_name_the_states_of_the_code() -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    tables = re.findall(r"\| from \| event \| to \|\n\|[- |]+\n((?:\|.*\n)+)", text)
    found = [
        {cell.strip() for row in table.splitlines() for cell in row.split("|")[1:4:2]} for table in tables
    ]
    assert found == [{"(new)", *RoundState}, {"(new)", *JobState}]


def test_caveats__each_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Caveat)


@pytest.mark.parametrize("page", ["security.md", "reliability.md"])
def test_promises__name_tests_that_exist(page: str) -> None:
    """Every line of the threat model, and of the faults, ends with the tests that hold it."""
    lines = (CHECKOUT / "docs" / page).read_text().splitlines()
    rows = [
        line
        for line in lines
        if line.startswith("| ") and "| --- " not in line and not line.startswith(("| Threat |", "| Fault |"))
    ]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", row.rstrip(" |").rpartition(" | ")[2])
        assert named, row
        for path, test in named:
            assert f"def {test}(" in (CHECKOUT / "tests" / path).read_text(), f"{path}::{test}"


def test_deployment__names_every_setting() -> None:
    page = (CHECKOUT / "docs" / "deployment.md").read_text().partition("## Settings of fsq itself")[2]
    assert {f"FSQ_{name.upper()}" for name in Settings.model_fields} == set(
        re.findall(
            r"`(FSQ_[A-Z_]+)`", "\n".join(re.findall(r"(?m)^\| (`FSQ.*?) \|", page.partition("\n## ")[0]))
        )
    )
