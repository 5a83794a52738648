"""From a round file to a validated round, or to the full list of what is wrong with it and where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import BadRound, NotFound, Problem
from orchestrator.round_file import RoundFile, dotted, parse, read
from orchestrator.spec import MAX_JOBS, Location, RoundSpec, Selection, spell_out
from worker.job import AnyTaskConfig, FutureSeedSettings, TaskConfig, task_options

TASK: TypeAdapter[TaskConfig] = TypeAdapter(AnyTaskConfig)


Known = Callable[[str], Mapping[str, Any]]  # a submitted round's spec as JSON; raises NotFound


def _nothing_known(name: str) -> Mapping[str, Any]:
    raise NotFound(f"there is no round named {name!r}")


def read_round(path: Path, **context: Any) -> tuple[RoundSpec, RoundFile]:
    """Reads and validates a round file, with paths resolved against its folder; see `validate`."""
    file = read(path)
    return validate(file, **context).resolved(path.resolve().parent), file


def parse_round(
    content: bytes, name: str, after: str | None = None, **context: Any
) -> tuple[RoundSpec, RoundFile]:
    """Parses and validates the text of a round file; see `validate`."""
    file = parse(content, name)
    return validate(file, after, **context), file


def validate(
    file: RoundFile, after: str | None = None, *, today: date | None = None, known: Known = _nothing_known
) -> RoundSpec:
    """Validates a round file; raises BadRound with all problems found.

    after: the round that it is to come after, rather than the one its file names.
    today: what {date} in names of rounds stands for; without it, {date} is refused.
    known: where the round that `like` names is found; raises what that raises.
    """
    data = _with_parent(file.data, after)
    if today is not None:
        _fill_in_date(data, today)
    if "like" in data:
        like = data.pop("like")
        if not isinstance(like, str):
            line = file.line_of(("like",))
            raise BadRound(file.name, [Problem("like", line, "expected the name of a round")])
        data |= _inherited(known(like), data)
    try:
        spec = RoundSpec.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = [_problem(detail, data, file) for detail in error.errors(include_url=False)]
        raise BadRound(file.name, problems) from None
    if spec.most_jobs > MAX_JOBS:
        message = (
            f"tasks x variants x seeds x stages are {spec.most_jobs:,} jobs; a round has at most {MAX_JOBS:,}"
        )
        raise BadRound(file.name, [Problem("", None, message)])
    return spec


def _with_parent(data: Mapping[str, Any], after: str | None) -> dict[str, Any]:
    """A copy of a round's data, coming after the round given."""
    copied = deepcopy(dict(data))
    if after is not None:
        parent = copied.get("after")
        copied["after"] = (parent if isinstance(parent, dict) else {}) | {"round": after}
    return copied


def _inherited(spec: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What a round takes over from the one that it is like: all that it does not say itself."""
    return {key: value for key, value in spec.items() if key not in {"round", "after", *data}}


def _fill_in_date(data: dict[str, Any], today: date) -> None:
    """Replaces {date} wherever a round is named."""
    variants = data.get("variants")
    sources = variants if isinstance(variants, list) else [variants]
    for names, key in (
        (data, "round"),
        (data, "like"),
        (data.get("after"), "round"),
        *((entry, "from") for entry in sources),
    ):
        if isinstance(names, dict) and isinstance(names.get(key), str):
            names[key] = names[key].replace("{date}", today.isoformat())


def parse_task(kind: str, options: Mapping[str, Any]) -> TaskConfig:
    """Validates the options of one task; raises BadRound with all problems found."""
    if options.get("kind", kind) != kind:
        raise BadRound("", [Problem("kind", None, f"is {kind!r} here, not {options['kind']!r}")])
    data = {"tasks": {kind: {**options, "kind": kind}}}
    try:
        return TASK.validate_json(json.dumps(data["tasks"][kind]))
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [
            Problem(dotted(detail["loc"]), None, _message(detail, ("tasks", kind, *detail["loc"]), data))
            for detail in details
        ]
        raise BadRound(kind, problems) from None


def _problem(detail: ErrorDetails, data: Mapping[str, Any], file: RoundFile) -> Problem:
    location = _place_in_file(detail["loc"], data)
    return Problem(dotted(location), file.line_of(location), _message(detail, location, data))


def _place_in_file(location: Location, data: Mapping[str, Any]) -> Location:
    """Where a validated value stands in the file: variants are expanded before validation."""
    if location[:1] == ("variants",) and len(location) > 1 and isinstance(location[1], int):
        place, _ = list(spell_out(data["variants"]))[location[1]]
        inner = location[3:]  # after the index and the kind of entry
        rest = inner[1:] if inner[:1] == ("settings",) else inner
        return ("variants", *place, *rest)
    return location


def _message(detail: ErrorDetails, location: Location, data: Mapping[str, Any]) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return _unknown_key(str(location[-1]), sorted(_keys_at(location[:-1], data)))
    if kind == "missing":
        return "is required and missing"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "string_pattern_mismatch":
        return f"{given!r} is no name: letters, digits and _ . = + - are allowed, the first a letter or digit"
    expected = detail["msg"].replace("Input should be ", "expected ")
    shown = repr(given) if len(repr(given)) <= 60 else f"{repr(given)[:57]}..."
    return f"{expected}, not {shown}"


def _unknown_key(key: str, allowed: list[str]) -> str:
    near = get_close_matches(key, allowed, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(allowed)}"
    return f"unknown key {key!r}; {hint}"


def _keys_at(location: Location, data: Mapping[str, Any]) -> Iterable[str]:
    """The keys that a mapping at this place of a round file may have."""
    if location[:1] == ("variants",):
        entry = data["variants"][location[1]] if len(location) > 1 else data["variants"]
        is_selection = isinstance(entry, dict) and isinstance(entry.get("from"), str)
        known = (Selection if is_selection else FutureSeedSettings).model_fields
        return {field.alias or name for name, field in known.items()}
    models: list[type[BaseModel]] = [RoundSpec]
    if location[:1] == ("tasks",) and len(location) > 1:
        models = [task_options(data["tasks"][location[1]]["kind"])]
        location = location[2:]
    for part in location:
        if isinstance(part, str):
            fields = (model.model_fields[part] for model in models if part in model.model_fields)
            models = [found for field in fields for found in _models_in(field.annotation)] or models
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type annotation mentions: tuple[Stage, ...] has Stage."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
