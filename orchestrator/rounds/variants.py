"""How a round names and spells out its variants: by catalogue, by settings, by grid, or from another round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    StringConstraints,
    Tag,
    ValidationInfo,
    model_validator,
)

from orchestrator.messages import Location
from orchestrator.rounds.catalogue import MAX_NAME, expand_grid, look_up
from orchestrator.rounds.chains import Where
from worker.job import BASELINE, FutureSeedSettings, Strict

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.=+-]*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=MAX_NAME)]
LARGEST_FLOAT32 = 3.4028234e38
_PROBLEM = "problem"  # instead of a variant's name and settings: what is wrong with it


class Variant(Strict):
    """A named Future-Seed configuration; without settings it is one of the catalogue."""

    name: Name
    settings: FutureSeedSettings

    @model_validator(mode="before")
    @classmethod
    def _from_catalogue(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        if _PROBLEM in data:
            raise ValueError(data[_PROBLEM])
        if data.get("name") == BASELINE:
            raise ValueError(
                f"{BASELINE!r} is the arm without Future-Seed and always run; choose another name"
            )
        is_named = isinstance(data.get("name"), str) and data.get("settings", data) is None
        return {**data, "settings": look_up(data["name"])} if is_named else data

    @model_validator(mode="after")
    def _is_within_float32(self, info: ValidationInfo) -> Self:
        """Training computes in it; a stored round may be of a version that let larger numbers pass."""
        if info.context and info.context.get("is_stored"):
            return self
        numbers = {key: value for key, value in self.settings if isinstance(value, float)}
        for end in ("schedule_min", "schedule_max"):
            numbers[f"seed_scale * {end}"] = self.settings.seed_scale * numbers[end]
        for key, value in numbers.items():
            if abs(value) > LARGEST_FLOAT32:
                raise ValueError(f"{key} = {value} is beyond float32")
        return self


class Selection(Strict):
    """Variants that are known once another round has ended: those it decided well on, best first."""

    model_config = ConfigDict(serialize_by_alias=True)

    source: Name = Field(alias="from")
    where: Where = "promoted"
    top: PositiveInt | None = None  # the best so many; None: all
    by: Name | None = None  # the stage that decides; None: the last one of that round that selects


def _is_selection(entry: Any) -> bool:
    return isinstance(entry, Selection) or (isinstance(entry, Mapping) and isinstance(entry.get("from"), str))


AnyVariant = Annotated[
    Annotated[Variant, Tag("named")] | Annotated[Selection, Tag("selection")],
    Discriminator(lambda entry: "selection" if _is_selection(entry) else "named"),
]


def spell_out(variants: Any) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Every variant of a round file's `variants`, with its place there.

    Takes catalogue names, mappings of a name to settings, `{grid: ...}`, `{from: ROUND, ...}`, and lists of these.
    What is none of them is told of when the variant is validated, beside what is wrong with others.
    """
    if isinstance(variants, list):
        for index, entry in enumerate(variants):
            yield from _spell_out_entry((index,), entry)
    else:
        yield from _spell_out_entry((), variants)


def _spell_out_entry(place: Location, entry: Any) -> Iterator[tuple[Location, dict[str, Any]]]:
    if isinstance(entry, str) and place:
        yield place, {"name": entry, "settings": None}
    elif _is_selection(entry):
        yield place, entry
    elif isinstance(entry, dict):
        for name, settings in entry.items():
            if name == "grid" and isinstance(settings, dict):
                try:
                    for combination, values in expand_grid(settings):
                        yield (*place, name), {"name": combination, "settings": values}
                except ValueError as error:
                    yield (*place, name), {_PROBLEM: str(error)}
            else:
                yield (*place, name), {"name": name, "settings": settings}
    else:
        expected = "a catalogue name, " if place else "a list of catalogue names, "
        problem = f"expected {expected}a mapping of names to settings, or {{from: ROUND}}, not {entry!r}"
        yield place, {_PROBLEM: problem}


def entries(variants: Any) -> Iterator[tuple[Location, Any]]:
    """Every variant with its place, as a person writes them (see `spell_out`) or as a stored round has them."""
    if isinstance(variants, list) and variants and all(_is_spelled_out(entry) for entry in variants):
        yield from (((index,), entry) for index, entry in enumerate(variants))
    else:
        yield from spell_out(variants)


def read_variants(value: Any) -> Any:
    return value if isinstance(value, tuple) else tuple(variant for _, variant in entries(value))


def _is_spelled_out(entry: Any) -> bool:
    """Whether this is how a stored round has its variants, rather than how a person writes them."""
    return isinstance(entry, Mapping) and (set(entry) == {"name", "settings"} or _is_selection(entry))
