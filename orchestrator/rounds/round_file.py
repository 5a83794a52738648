"""Reading YAML into plain data while remembering on which line each value stands.

Plain data only: no tags, no aliases, no duplicate keys, one document of at most a megabyte.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from orchestrator.errors import BadRound, Problem
from orchestrator.messages import Location, dotted, one_line

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 10_000


@dataclass
class RoundFile:
    """The content of a round file, and the line of every key and item in it."""

    name: str
    text: str
    data: dict[str, Any]
    lines: dict[Location, int] = field(default_factory=dict)

    def line_of(self, location: Location) -> int | None:
        """The line of a value, or of the nearest enclosing one that stands in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """KEY=VALUE, with YAML values and dots between nested keys, as nested mappings; raises BadRound."""
    nested: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise BadRound("--set", [Problem("", None, f"{setting!r} is not KEY=VALUE")])
        *folders, name = key.split(".")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise BadRound("--set", [Problem(key, None, f"{folder!r} has a value already")])
        content = parse(f"value: {value}".encode(errors="surrogatepass"), f"--set {key}").data
        if set(content) != {"value"}:
            raise BadRound("--set", [Problem(key, None, f"{value!r} is more than one value")])
        inner[name] = content["value"]
    return nested


class _Loader(yaml.SafeLoader):
    """Numbers as in YAML 1.2 (1e-4 is a number) and no dates, which are text in a round file."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float", ":int"))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$"
    ),
    list("-+.0123456789"),
)


def parse(content: bytes, name: str) -> RoundFile:
    """Reads a round file; raises BadRound with the line of what is wrong."""
    _check_size(name, len(content))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _bad(name, line, f"not UTF-8 text (byte 0x{content[error.start]:02x})") from None
    file = RoundFile(name, text, {})
    try:
        _refuse_extras(name, text)
        root = yaml.compose(text, Loader=_Loader)
        data = _plain(root, (), file) if root else None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _bad(name, line, f"not valid YAML: the character {chr(error.character)!r}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        raise _bad(name, mark.line + 1 if mark else None, f"not valid YAML: {what}") from None
    if not isinstance(data, dict):
        raise _bad(name, 1, "expected a mapping with the keys round, model, stages, tasks, variants ...")
    file.data = data
    return file


def read(path: Path) -> RoundFile:
    """Reads the round file at a path; raises BadRound."""
    try:
        with path.open("rb") as file:
            _check_size(path.name, os.fstat(file.fileno()).st_size)
            content = file.read(MAX_BYTES + 1)  # pipes and devices do not say how much they hold
    except OSError as error:
        raise _bad(str(path), None, f"cannot be read: {error.strerror}") from None
    return parse(content, path.name)


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise _bad(name, None, f"the file has {size:,} bytes; a round file has at most {MAX_BYTES:,}")


def parse_json(content: bytes, name: str) -> RoundFile:
    """Reads a round written as JSON; raises BadRound."""
    try:
        text = content.decode("utf-8-sig")
        data = plain_json(text)
    except ValueError as error:
        raise _bad(name, None, f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise _bad(name, None, "expected an object with the keys round, model, stages, tasks, variants ...")
    return RoundFile(name, text, data)


def plain_json(text: str, *, numberless: bool = False) -> Any:
    """Plain data from JSON: of bounded depth and size, no key twice; raises ValueError.

    numberless: accepts NaN and Infinity, which Python writes into JSON though JSON does not have them.
    """
    constant = float if numberless else _no_number
    try:
        data = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=constant)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    _check_values(data)
    return data


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _check_values(data: Any) -> None:
    """Raises ValueError for too many values or levels, and for text that is none."""
    level, count = [data], 0
    for _ in range(MAX_DEPTH + 1):
        inner = [value for value in level if isinstance(value, dict | list)]
        texts = [value for value in level if isinstance(value, str)]
        texts += [key for value in inner if isinstance(value, dict) for key in value]
        for text in texts:
            _check_text(text)
        count += len(level)
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        level = [each for value in inner for each in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _check_text(text: str) -> None:
    """Raises ValueError for what no file, name or database can hold, though it can be written as an escape."""
    text.encode()  # a lone surrogate is no text
    if "\0" in text:
        raise ValueError("a null character")


def _refuse_extras(name: str, text: str) -> None:
    depth = values = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _bad(name, line, "anchors and aliases (&, *) are not accepted; write the value out")
        tag = getattr(event, "tag", None)
        if tag:
            raise _bad(name, line, f"the tag {tag} is not accepted")
        values += isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if values > MAX_VALUES:
            raise _bad(name, line, f"more than {MAX_VALUES:,} keys and values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _bad(name, line, f"nested more than {MAX_DEPTH} levels deep")


def _plain(node: Node, location: Location, file: RoundFile) -> Any:
    file.lines[location] = node.start_mark.line + 1
    if isinstance(node, MappingNode):
        return _mapping(node, location, file)
    if isinstance(node, SequenceNode):
        return [_plain(item, (*location, index), file) for index, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)  # noqa: S101  (YAML has no fourth kind)
    return _scalar(node, location, file)


def _mapping(node: MappingNode, location: Location, file: RoundFile) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            raise _bad(file.name, line, "a key must be plain text")
        key = key_node.value
        try:
            _check_text(key)
        except ValueError:
            raise _bad(file.name, line, "a null character or a lone surrogate in a key") from None
        if key in result:
            raise _bad(file.name, line, f"the key {key!r} stands twice in one mapping", (*location, key))
        result[key] = _plain(value_node, (*location, key), file)
        file.lines[(*location, key)] = line
    return result


def _scalar(node: ScalarNode, location: Location, file: RoundFile) -> Any:
    loader = _Loader("")
    try:
        value = loader.construct_object(node)
        _check_text(str(value))
        return value
    except (yaml.YAMLError, ValueError):
        message = f"cannot be read as {node.tag.rpartition(':')[2]}"
        raise _bad(file.name, node.start_mark.line + 1, message, location) from None
    finally:
        loader.dispose()


def _bad(name: str, line: int | None, message: str, location: Location = ()) -> BadRound:
    return BadRound(name, [Problem(dotted(location), line, one_line(message))])
