"""`docs/rounds.md` names every key of a round file, with the range and the default that the models have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.rounds.round_file import parse_settings
from orchestrator.rounds.spec import RoundSpec, Stage
from orchestrator.rounds.variants import Selection, Variant
from orchestrator.rules import Rule
from orchestrator.rules.registry import BUILT_IN, DEFAULT
from tasks import NotedConfig, TaskConfig
from worker.job import FutureSeedSettings, ModelConfig, OptimizerConfig, task_kinds, task_options

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "rounds.md").read_text()
MODELS: Mapping[str, type[BaseModel]] = {  # section -> what its first table is of
    "The round": RoundSpec,
    "model": ModelConfig,
    "stages": Stage,
    "optimizer": OptimizerConfig,
    "prune": BUILT_IN[DEFAULT],
    "Settings of a variant": FutureSeedSettings,
    "Variants of another round": Selection,
}
KINDS = [kind for kind in task_kinds() if task_options(kind).__module__.startswith("tasks.")]
WITH_NOTES = [kind for kind in KINDS if issubclass(task_options(kind), NotedConfig)]
IN_FILES_ALONE = "like"  # is resolved before the round is validated


class Key(NamedTuple):
    """A key of a round file, as a model has it."""

    field: FieldInfo
    schema: Mapping[str, Any]  # without those of models in it


class Told(NamedTuple):
    """A key of a round file, as a table tells it."""

    type: str
    default: str


def tables(section: str) -> list[list[list[str]]]:
    """The cells of each table of a section, without its head."""
    (text,) = re.findall(rf"(?ms)^##+ {section}\n(.*?)(?=^##|\Z)", PAGE)
    return [
        [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines()[2:]]
        for table in re.findall(r"(?m)(?:^\|.*\n)+", text)
    ]


def told(rows: list[list[str]]) -> dict[str, Told]:
    """The keys of a table whose last cells are key, type, default and meaning."""
    found = {key.strip("`"): Told(type_, default.strip("`")) for *_, key, type_, default, _ in rows}
    assert len(found) == len(rows)
    return found


def of_one(rows: list[list[str]], name: str) -> dict[str, Told]:
    """The keys of one rule or kind, from a table whose first cell names it."""
    return told([row for row in rows if row[0] == f"`{name}`"])


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def keys(model: type[BaseModel]) -> dict[str, Key]:
    """Every key of a model, and of the models in it that have no table of their own, by its dotted path."""
    found: dict[str, Key] = {}
    schemas = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        key = field.alias or name
        found[key] = Key(field, schemas[key])
        for inner in models_in(field.annotation):
            if inner not in {*MODELS.values(), Rule, TaskConfig, Variant}:
                found |= {f"{key}.{path}": below for path, below in keys(inner).items()}
    return found


def nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema and those in it, defaults aside."""
    if isinstance(schema, dict):
        yield schema
        schema = [value for name, value in schema.items() if name != "default"]
    for inner in schema if isinstance(schema, list) else ():
        yield from nodes(inner)


def values(schema: Mapping[str, Any], *names: str) -> list[Any]:
    return [node[name] for node in nodes(schema) for name in names if name in node]


BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def check_type(path: str, told: Told, key: Key) -> None:
    """Every bound and every word of a type is told, and no other."""
    bounds = {f"{word} {value:,}" for name, word in BOUNDS.items() for value in values(key.schema, name)}
    assert set(re.findall(r"(?:from|above|to|below) -?\d+(?:,\d{3})*(?:\.\d+)?", told.type)) == bounds, path
    words = {str(word) for enum in values(key.schema, "enum") for word in enum} | set(
        values(key.schema, "const")
    )
    assert set(re.findall("`([^`]+)`", told.type)) == words, path
    lengths = values(key.schema, "minItems", "minLength", "minProperties")
    assert ("one or more" in told.type) == (1 in lengths), path


def check_default(path: str, shown: str, field: FieldInfo) -> None:
    """What is shown as default is "required", or comes to the field's default when it is read."""
    if field.is_required():
        assert shown == "required", path
    else:
        value = parse_settings([f"value={shown}"])["value"]
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        assert adapter.validate_json(json.dumps(value)) == field.default, path


def check(shown: Mapping[str, Told], of: Mapping[str, Key]) -> None:
    """A table has just these keys, with their types and defaults."""
    assert set(shown) == set(of)
    for path, row in shown.items():
        check_type(path, row, of[path])
        check_default(path, row.default, of[path].field)


@pytest.mark.parametrize("section", MODELS)
def test_section__has_every_key_of_its_model(section: str) -> None:
    shown = told(tables(section)[0])
    if section == "The round":
        assert shown.pop(IN_FILES_ALONE).default == "null"
    check(shown, keys(MODELS[section]))


@pytest.mark.parametrize("rule", BUILT_IN)
def test_prune__has_every_key_of_every_rule(rule: str) -> None:
    common, own = tables("prune")
    of = keys(BUILT_IN[rule])
    check(told(common) | of_one(own, rule) | {"rule": Told(f"`{rule}`", rule)}, of)


@pytest.mark.parametrize("kind", KINDS)
def test_tasks__has_every_key_of_every_kind(kind: str) -> None:
    common, with_notes, defaults, own = tables("tasks")
    shared = told(common) | (told(with_notes) if kind in WITH_NOTES else {})
    (cells,) = [[cell.strip("`") for cell in row[1:]] for row in defaults if row[0] == f"`{kind}`"]
    by_kind = {name: cell for name, cell in zip(columns(), cells, strict=True) if cell != "-"}
    assert {path for path, row in shared.items() if row.default == "by kind"} == set(by_kind)
    shared |= {path: shared[path]._replace(default=default) for path, default in by_kind.items()}
    check(shared | of_one(own, kind) | {"kind": Told(f"`{kind}`", kind)}, keys(task_options(kind)))


def columns() -> list[str]:
    """What the table of defaults by kind has defaults of."""
    (head,) = re.findall(r"(?m)^\| kind \| (`train`.*) \|$", PAGE)
    return [name.strip("`") for name in head.split(" | ")]


def test_tables__are_of_nothing_else() -> None:
    assert {row[0].strip("`") for row in tables("prune")[1]} <= {*BUILT_IN}
    assert {row[0].strip("`") for row in tables("tasks")[2]} == {*KINDS}
    assert {row[0].strip("`") for row in tables("tasks")[3]} <= {*KINDS}
    assert f"({', '.join(f'`{kind}`' for kind in WITH_NOTES)})" in PAGE
    assert "`{" + ", ".join(Variant.model_fields) + "}`" in PAGE
    assert len(re.findall(r"(?m)^\| --- ", PAGE)) == len(MODELS) + 1 + 4


def test_first_round__is_in_order_without_anything_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    for name in ("FSQ_DATABASE_URL", "FSQ_SERVER"):
        monkeypatch.delenv(name, raising=False)
    (block,) = re.findall(r"```yaml\n(round: first\n.*?)```", PAGE, re.DOTALL)
    (tmp_path / "first.yaml").write_text(block)
    done = CliRunner().invoke(app, ["submit", str(tmp_path / "first.yaml"), "--dry-run"])
    assert done.output == "first.yaml is in order: at most 4 jobs.\n"
