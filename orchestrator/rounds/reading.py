"""From a round file to a validated round, or to the full list of what is wrong with it and where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import date
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import BadRound, NotFound, Problem
from orchestrator.messages import Location, dotted, one_line
from orchestrator.rounds.consistency import Conflict, Inconsistent, conflicts
from orchestrator.rounds.round_file import RoundFile, parse, read
from orchestrator.rounds.spec import MAX_JOBS, RoundSpec
from orchestrator.rounds.variants import NAME_PATTERN, Name, Selection, entries, spell_out
from orchestrator.rules.registry import DEFAULT, rule_class
from worker.job import AnyTaskConfig, FutureSeedSettings, TaskConfig, task_options

TASK: TypeAdapter[TaskConfig] = TypeAdapter(AnyTaskConfig)
NAME: TypeAdapter[str] = TypeAdapter(Name)
MAX_PROBLEMS = 100  # told of at once
MAX_LOOKED_AT = 10_000

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
    _confirm_by_name(data)
    if "like" in data:
        like = _name_of_a_round(data.pop("like"), file)
        data |= _inherited(known(like), data)
    _refuse_too_many_variants(data, file)
    try:
        spec = RoundSpec.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise BadRound(file.name, _problems(error, data, file)) from None
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


def _confirm_by_name(data: Mapping[str, Any]) -> None:
    """Has a stage that a file names `confirm` confirm; one of a stored round is left as it was understood then."""
    stages = data.get("stages")
    for stage in stages if isinstance(stages, list) else []:
        if isinstance(stage, dict) and stage.get("name") == "confirm" and stage.get("confirm") is None:
            stage["confirm"] = {}


def _name_of_a_round(like: Any, file: RoundFile) -> str:
    try:
        return NAME.validate_python(like, strict=True)
    except ValidationError:
        line = file.line_of(("like",))
        raise BadRound(file.name, [Problem("like", line, "expected the name of a round")]) from None


def _refuse_too_many_variants(data: Mapping[str, Any], file: RoundFile) -> None:
    """Raises BadRound before hundreds of grids are validated."""
    count = sum(1 for _ in islice(spell_out(data.get("variants")), MAX_JOBS + 1))
    if count > MAX_JOBS:
        message = f"the variants are more than {MAX_JOBS:,}, and a round has at most so many jobs"
        raise BadRound(file.name, [Problem("variants", file.line_of(("variants",)), message)])


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
        details = error.errors(include_url=False)[:MAX_PROBLEMS]
        problems = [
            Problem(dotted(detail["loc"]), None, _message(detail, ("tasks", kind, *detail["loc"]), data))
            for detail in details
        ]
        raise BadRound(kind, problems) from None


def _problems(error: ValidationError, data: Mapping[str, Any], file: RoundFile) -> list[Problem]:
    """What is wrong and where, also between parts that are right; of very many problems the first, and how many."""
    told = error.errors(include_url=False)
    details = [one for one in told if not _follows(one, told)]
    places = _Places(data)
    found: dict[Conflict, None] = {}  # one of a grid comes once for each of its variants, and is told of once
    for detail in details[:MAX_LOOKED_AT]:
        if _inconsistency(detail) is None:
            place = places.in_file(detail["loc"])
            found[place, _message(detail, place, data)] = None
    if len(found) <= MAX_PROBLEMS:
        found |= {(places.in_file(place), said): None for place, said in _conflicts(details, data)}
    problems = [Problem(dotted(place), file.line_of(place), said) for place, said in found]
    left = len(problems) - MAX_PROBLEMS + max(0, len(details) - MAX_LOOKED_AT)
    return (
        problems
        if left <= 0
        else [*problems[:MAX_PROBLEMS], Problem("", None, f"and {left:,} more problems")]
    )


def _inconsistency(detail: ErrorDetails) -> Inconsistent | None:
    """What is wrong between the parts of a round, each of which is right."""
    cause = detail.get("ctx", {}).get("error")
    return cause if isinstance(cause, Inconsistent) else None


def _conflicts(details: Sequence[ErrorDetails], data: Mapping[str, Any]) -> Iterator[Conflict]:
    """The conflicts within a round, or between what is right in one that is not right as a whole."""
    for detail in details:
        if (inconsistent := _inconsistency(detail)) is not None:
            yield from inconsistent.conflicts
            return
    parts, kept = _right_parts(details, data)
    for (field, *inner), message in conflicts(parts):
        if field in kept and inner:
            inner[0] = kept[str(field)][int(inner[0])]  # its place before any was left out
        yield (field, *inner), message


def _right_parts(
    details: Sequence[ErrorDetails], data: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The fields of a round that are right, lists without the items that are not; and which items were kept."""
    wrong: dict[str, set[Any]] = {}  # by field: items of it; None: the field itself
    for detail in details:
        field, *inner = detail["loc"]
        wrong.setdefault(str(field), set()).add(inner[0] if inner else None)
    parts: dict[str, Any] = {}
    kept: dict[str, list[int]] = {}
    for name, info in RoundSpec.model_fields.items():
        left_out = wrong.get(name, set())
        if name not in data:
            parts |= {} if info.is_required() else {name: info.default}
        elif None not in left_out:
            value = [entry for _, entry in entries(data[name])] if name == "variants" else data[name]
            if isinstance(value, list):
                kept[name] = [i for i in range(len(value)) if i not in left_out]
                value = [value[i] for i in kept[name]]
            elif left_out:
                continue
            with suppress(ValidationError):
                parts[name] = TypeAdapter(info.rebuild_annotation()).validate_json(json.dumps(value))
    return parts, kept


def _follows(detail: ErrorDetails, told: Sequence[ErrorDetails]) -> bool:
    """Whether a list is too short only because what is in it is wrong, which is told of by itself."""
    place = detail["loc"]
    return detail["type"] == "too_short" and any(
        one["loc"][: len(place)] == place and len(one["loc"]) > len(place) for one in told
    )


class _Places:
    """Where validated values stand in the file: variants are expanded before validation."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    @cached_property
    def _of_variants(self) -> list[Location]:
        return [place for place, _ in entries(self._data["variants"])]

    def in_file(self, location: Location) -> Location:
        if location[:1] == ("variants",) and len(location) > 1 and isinstance(location[1], int):
            inner = location[3:]  # after the index and the kind of entry
            rest = inner[1:] if inner[:1] == ("settings",) else inner
            return ("variants", *self._of_variants[location[1]], *rest)
        return location


_PLAINER = {
    "Input should be ": "expected ",
    "String should have": "expected",
    "a valid array": "a list",
    "a valid dictionary": "a mapping",
    "an object": "a mapping",
}


def _message(detail: ErrorDetails, location: Location, data: Mapping[str, Any]) -> str:
    kind, given = detail["type"], _shown(detail["input"])
    if kind == "extra_forbidden":
        return _unknown_key(str(location[-1]), sorted(_keys_at(location[:-1], data)))
    if kind == "missing":
        return "is required and missing"
    if kind == "path_type":  # which class of path it names depends on Python's version
        return f"expected a path, not {given}"
    if kind == "value_error":
        return one_line(str(detail["ctx"]["error"]))
    if kind == "too_short":
        found = [*entries(detail["input"])] if location == ("variants",) else detail["input"]
        return f"expected at least {detail['ctx']['min_length']}, found {len(found)}"
    if kind == "string_pattern_mismatch" and detail["ctx"]["pattern"] != NAME_PATTERN:
        return f"{given} is no {location[-1]}{' such as owner/name' if location[-1] == 'repo' else ''}"
    if kind == "string_pattern_mismatch":
        return f"{given} is no name: letters, digits and _ . = + - are allowed, the first a letter or digit"
    expected = detail["msg"]
    for theirs, ours in _PLAINER.items():
        expected = expected.replace(theirs, ours)
    is_number = kind == "string_type" and isinstance(detail["input"], int | float)
    return one_line(f"{expected}, not {given}{'; put it in quotes' if is_number else ''}")


def _shown(value: Any, limit: int = 60) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)  # as YAML has them
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _unknown_key(key: str, allowed: list[str]) -> str:
    near = get_close_matches(key, allowed, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(allowed)}"
    return f"unknown key {_shown(key)}; {hint}"


def _keys_at(location: Location, data: Mapping[str, Any]) -> Iterable[str]:
    """The keys that a mapping at this place of a round file may have."""
    if location == ():
        return {*RoundSpec.model_fields, "like"}
    if location[:1] == ("variants",):
        entry = data["variants"][location[1]] if len(location) > 1 else data["variants"]
        is_selection = isinstance(entry, dict) and isinstance(entry.get("from"), str)
        known = (Selection if is_selection else FutureSeedSettings).model_fields
        return {field.alias or name for name, field in known.items()}
    models: list[type[BaseModel]] = [RoundSpec]
    if location[:1] == ("tasks",) and len(location) > 1:
        models = [task_options(data["tasks"][location[1]]["kind"])]
        location = location[2:]
    if location[:1] == ("prune",):
        models, location = [rule_class(data["prune"].get("rule", DEFAULT))], location[1:]
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
