"""Every call of fsq in a piece of shell or on a page, and whether the program would take it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from orchestrator.cli import app

CHECKOUT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

Words = list[str]


def in_shell(script: str) -> Iterator[Words]:
    """What each call of fsq in a piece of shell hands to it."""
    for line in script.replace("\\\n", " ").splitlines():
        words: Words = []
        for token in [*shlex.shlex(line, posix=True, punctuation_chars=True), ";"]:
            if not set(token) <= set("();<>|&"):
                words.append(token)
                continue
            if (arguments := _arguments_of_fsq(words)) is not None:
                yield arguments
            words = []


def _arguments_of_fsq(words: Words) -> Words | None:
    """What a simple command hands to fsq; None if it runs something else."""
    while words and re.fullmatch(r"\{|\$|\w+=.*", words[0]):  # a prompt, or variables set for the command
        words = words[1:]
    if words[:1] == ["fsq"]:
        return words[1:]
    for index, word in enumerate(words):
        if word.endswith("/bin/fsq"):
            return words[index + 1 :]
        if words[:3] == ["docker", "compose", "run"] and word in SERVICES and "--entrypoint" not in words:
            return words[index + 1 :]
        if words[:3] == ["docker", "compose", "exec"] and word == "fsq" and words[index - 1] in SERVICES:
            return words[index + 1 :]
    return None


def in_page(page: str) -> Iterator[Words]:
    """Every call on a Markdown page: in blocks of shell, at the start of a line of other plain ones, and in the text.

    In running text arguments may be left out; options and commands must exist.
    """
    for language, block in re.findall(r"(?m)^```(\w*)\n((?:.*\n)*?)```$", page):
        if language == "sh":
            yield from in_shell(block)
        elif not language:
            yield from in_shell("\n".join(re.findall(r"(?m)^(?:\$ )?(?:\w+=\S+ )*fsq .*", block)))
    text = re.sub(r"(?ms)^```.*?^```$", "", page)
    for span in re.findall(r"`([^`]+)`", text):
        if re.search(r"\bfsq\s", span):
            yield from ([*words, "--help"] for words in in_shell(" ".join(span.split())))


def check(source: str, words: Words) -> None:
    """Fails a test if fsq would not take the words, without running anything."""
    command: Any = typer.main.get_command(app)
    try:
        context: Any = command.make_context("fsq", list(words))
        while hasattr(command, "commands"):
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, rest, parent=context)
    except typer.Exit:
        pass  # after its help
    except Exception as error:
        pytest.fail(f"{source}: fsq {shlex.join(words)}: {error}", pytrace=False)


def commands_of(sources: dict[str, list[Words]]) -> Collection[tuple[str, Words]]:
    """Every call with where it stands, for one test each."""
    return [(source, words) for source, found in sources.items() for words in found]
