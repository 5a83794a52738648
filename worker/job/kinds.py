"""Task kinds, as rounds name them and lists show them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from tasks import BrokenTaskKind, TaskConfig, UnknownTaskKind, get_kind, kinds, parse_config
from tasks.errors import blaming_kind


def task_options(kind: str) -> type[TaskConfig]:
    """The options that a task of this kind takes; raises UnknownTaskKind."""
    return get_kind(kind).Config


def task_kinds() -> dict[str, dict[str, Any]]:
    """Every task kind: its summary, and its options: whether required, their default as JSON, their meaning."""
    found = {}
    for name, task in kinds().items():
        with suppress(BrokenTaskKind), blaming_kind(name, "to make the defaults of its options"):
            found[name] = {"summary": task.summary, "options": _options(task.Config)}
    return found


def _options(config: type[TaskConfig]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "required": field.is_required(),
            "default": to_jsonable_python(_default(field), exclude_none=True, fallback=str),
            "meaning": field.description or "",
        }
        for name, field in config.model_fields.items()
        if name != "kind"
    }


def _default(field: FieldInfo) -> Any:
    """None where there is none, or it follows from other options."""
    is_open = field.is_required() or field.default_factory_takes_validated_data
    return None if is_open else field.get_default(call_default_factory=True)


def _task_config(value: Any) -> Any:
    try:
        return parse_config(value) if isinstance(value, Mapping) else value
    except (UnknownTaskKind, BrokenTaskKind) as error:
        raise ValueError(str(error)) from None


AnyTaskConfig = Annotated[SerializeAsAny[TaskConfig], BeforeValidator(_task_config)]
