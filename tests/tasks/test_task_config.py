from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks import Data, UnknownTaskKind, get_kind, kinds, parse_config
from tasks.builtin.punctuation import PunctuationNotes

BUILT_IN = ["arc", "hotpotqa", "mbpp", "protein_contact", "protein_ss", "punctuation", "sudoku"]


def errors(options: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        parse_config(options)
    return [(error["loc"], error["type"]) for error in caught.value.errors()]


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("arc", (1000, 200, 8, 512, 0, 8)),
        ("hotpotqa", (2048, 512, 2, 2048, 1024, 24)),
        ("mbpp", (800, 200, 1, 4096, 1536, 160)),
        ("protein_contact", (2000, 200, 2, 2048, 1024, 128)),
        ("punctuation", (1200, 240, 4, 2048, 768, 180)),
        ("protein_ss", (1600, 320, 2, 2048, 1024, 128)),
        ("sudoku", (1000, 200, 8, 128, 0, 81)),
    ],
)
def test_parse_config__defaults_of_the_kind(kind: str, limits: tuple[int, ...]) -> None:
    config = parse_config({"kind": kind})

    assert (
        config.train,
        config.val,
        config.batch_size,
        config.max_prompt_tokens,
        config.min_prompt_tokens,
        config.max_answer_tokens,
    ) == limits


def test_parse_config__own_defaults() -> None:
    protein = parse_config({"kind": "protein_ss"}).model_dump()
    assert {name: protein[name] for name in ("queries", "query_region", "states", "order", "notes")} == {
        "queries": 48,
        "query_region": "random",
        "states": 8,
        "order": "q_first",
        "notes": {"fill": True, "pool_size": 2048, "max_residues": 256},
    }
    assert parse_config({"kind": "arc"}).model_dump()["order"] == "options_first"
    assert parse_config({"kind": "mbpp"}).model_dump()["order"] == "q_first"
    assert parse_config({"kind": "hotpotqa"}).model_dump()["order"] == "q_after"


@pytest.mark.parametrize(("size", "blanks"), [(9, 40), (4, 8)])
def test_parse_config__default_blanks_follow_the_size(size: int, blanks: int) -> None:
    assert parse_config({"kind": "sudoku", "size": size}).model_dump()["blanks"] == blanks


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "arc", "trian": 5}, [(("trian",), "extra_forbidden")]),
        ({"kind": "arc", "notes": {"fill": True}}, [(("notes",), "extra_forbidden")]),
        ({"kind": "arc", "train": 5.0}, [(("train",), "int_type")]),
        ({"kind": "arc", "train": True}, [(("train",), "int_type")]),
        ({"kind": "arc", "train": 0}, [(("train",), "greater_than_equal")]),
        ({"kind": "protein_contact", "cutoff": True}, [(("cutoff",), "float_type")]),
        ({"kind": "protein_contact", "positive_ratio": "1"}, [(("positive_ratio",), "float_type")]),
        ({"kind": "mbpp", "max_prompt_tokens": True}, [(("max_prompt_tokens",), "int_type")]),
        ({"kind": "mbpp", "order": "first"}, [(("order",), "literal_error")]),
        ({"kind": "mbpp", "notes": {"filling": True}}, [(("notes", "filling"), "extra_forbidden")]),
        ({"kind": "mbpp", "min_prompt_tokens": 9, "max_prompt_tokens": 8}, [((), "value_error")]),
        ({"kind": "mbpp", "data": {}}, [(("data",), "value_error")]),
        ({"kind": "mbpp", "data": {"path": "a", "val": "b"}}, [(("data",), "value_error")]),
        ({"kind": "mbpp", "data": {"train": "a"}}, [(("data",), "value_error")]),
        ({"kind": "mbpp", "data": {"hub": {"repo": "a/b"}}}, [(("data", "hub"), "value_error")]),
        ({"kind": "sudoku", "blanks": 65}, [((), "value_error")]),
        ({"kind": "sudoku", "size": 4, "blanks": 13}, [((), "value_error")]),
        ({"kind": "sudoku", "size": 5}, [(("size",), "literal_error")]),
        ({"train": 3}, [(("kind",), "missing")]),
        ({"kind": 3}, [(("kind",), "string_type")]),
    ],
)
def test_parse_config__wrong_option_keeps_its_place(options: dict[str, Any], expected: Any) -> None:
    assert errors(options) == expected


def test_parse_config__all_errors_at_once() -> None:
    assert {place for place, _ in errors({"kind": "mbpp", "val": "x", "order": 1, "more": 2})} == {
        ("val",),
        ("order",),
        ("more",),
    }


def test_parse_config__unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownTaskKind, match=r"no task kind 'mbbp' \(did you mean mbpp\?\)"):
        parse_config({"kind": "mbbp"})


@pytest.mark.parametrize(
    ("options", "floor"),
    [
        ({}, 1536),
        ({"max_prompt_tokens": 1024}, 1024),
        ({"notes": {"fill": False}}, 0),
        ({"notes": {"fill": False}, "max_prompt_tokens": 1024}, 0),
        ({"notes": PunctuationNotes(fill=False)}, 0),
        ({"notes": {"fill": False}, "min_prompt_tokens": 7}, 7),
    ],
)
def test_parse_config__default_floor(options: dict[str, Any], floor: int) -> None:
    assert parse_config({"kind": "mbpp", **options}).min_prompt_tokens == floor


@pytest.mark.parametrize("kind", BUILT_IN)
def test_parse_config__survives_json(kind: str) -> None:
    config = parse_config({"kind": kind, "data": {"train": "a.jsonl", "val": "/b.jsonl"}, "batch_size": 3})

    assert parse_config(config.model_dump(mode="json")) == config


def test_resolved__relative_paths_only() -> None:
    config = parse_config({"kind": "arc", "data": {"train": "../a.jsonl", "val": "/data/b.jsonl"}})

    resolved = config.resolved(Path("/rounds/today"))

    assert resolved.data == Data(train=Path("/rounds/today/../a.jsonl"), val=Path("/data/b.jsonl"))
    assert parse_config({"kind": "sudoku"}).resolved(Path("/rounds")).data is None


def test_resolved__home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = parse_config({"kind": "arc", "data": {"train": "~/a.jsonl", "val": "~nobody-here/b.jsonl"}})
    resolved = config.resolved(Path("/rounds"))
    assert resolved.data == Data(train=Path("/home/me/a.jsonl"), val=Path("/rounds/~nobody-here/b.jsonl"))


def test_kinds__built_in_with_summary_and_described_options() -> None:
    found = kinds()

    assert set(BUILT_IN) <= set(found)
    for name in BUILT_IN:
        assert found[name] is get_kind(name)
        assert "\n" not in found[name].summary
        for option, field in found[name].Config.model_fields.items():
            assert field.description, (name, option)


@pytest.mark.parametrize("revision", ["../../secret", "/etc/passwd", "a/../b", "a//b", ".git", "a\0b", ""])
def test_parse_config__revision_stays_within_the_cache(revision: str) -> None:
    data = {"hub": {"repo": "someone/mbpp", "split": "train", "revision": revision}}
    assert errors({"kind": "mbpp", "data": data}) == [
        (("data", "hub", "revision"), "string_pattern_mismatch")
    ]


@pytest.mark.parametrize("config", ["..", "/abs", "a/b", "", ".x", "a\0"])
def test_parse_config__configuration_is_no_path(config: str) -> None:
    data = {"hub": {"repo": "someone/mbpp", "split": "train", "config": config}}
    assert errors({"kind": "mbpp", "data": data}) == [(("data", "hub", "config"), "string_pattern_mismatch")]


@pytest.mark.parametrize("repo", ["/any/folder", "../x", "a/b/c", "./a", ""])
def test_parse_config__repository_is_no_path(repo: str) -> None:
    data = {"hub": {"repo": repo, "split": "train"}}
    assert errors({"kind": "mbpp", "data": data}) == [(("data", "hub", "repo"), "string_pattern_mismatch")]


@pytest.mark.parametrize("kind", ["arc", "hotpotqa", "sudoku"])
def test_parse_config__a_kind_without_notes_may_be_told_to_leave_them_out(kind: str) -> None:
    assert parse_config({"kind": kind, "notes": {"fill": False}}) == parse_config({"kind": kind})
    for notes in ({"fill": True}, True):
        assert errors({"kind": kind, "notes": notes}) == [(("notes",), "extra_forbidden")]
    for notes in ({"fill": False, "pol": 1}, {"fill": False, "pool_size": "2"}):
        with pytest.raises(ValidationError):
            parse_config({"kind": kind, "notes": notes})


def test_parse_config__what_notes_leave_out_is_as_the_kind_has_it() -> None:
    task = {"kind": "punctuation"}
    assert parse_config(task | {"notes": {"fill": True}}) == parse_config(task)


@pytest.mark.parametrize("notes", [{"fill": False}, PunctuationNotes(fill=False, pool_size=5)])
def test_parse_config__no_floor_without_notes(notes: Any) -> None:
    assert parse_config({"kind": "punctuation", "notes": notes}).min_prompt_tokens == 0
