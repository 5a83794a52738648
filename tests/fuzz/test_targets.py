"""Every way in, with damaged and arbitrary bytes; then what fuzzing has found or is known for, one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.mutations import damaged
from tests.fuzz.seeds import NASTY, ROUND, ROUND_YAML, jsonl, rows_of, torch_file
from tests.fuzz.targets import TARGETS, Defect

SLOW = {name: 12 for name in TARGETS if name.startswith(("post_", "task_", "checkpoint"))}


@pytest.mark.parametrize("name", TARGETS)
def test_target__valid_input_is_taken(name: str) -> None:
    target, seeds = TARGETS[name]
    assert [target(content) for content in seeds] == [True] * len(seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_target__damaged_input(name: str) -> None:
    target, seeds = TARGETS[name]

    @settings(max_examples=SLOW.get(name, 40), suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of(damaged(*seeds), damaged(*seeds), damaged(*seeds), st.binary(max_size=60)))
    def run(content: bytes) -> None:
        target(content)

    run()


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in SLOW])
def test_target__nasty_pieces(name: str) -> None:
    target, seeds = TARGETS[name]
    for piece in NASTY:
        target(piece)
        target(seeds[0] + piece)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"](fsq:" * 50_000,
        b"[x](fsq:" * 50_000,
        b"[1](fsq:r1/s4/quick/l1/seed0#d_acc)" * 20_000,
        b"[x](fsq:r1/s4/quick/l2)" * 2_000,
        b"`" * 200_000,
        b"_a" * 100_000 + b"_records.jsonl",
        b"_summary_" * 50_000,
        b"[" + b"9" * 290 + b"e99](fsq:r1/s4/quick/l1/seed0#d_acc)",
        b"[1e-99](fsq:r1/s4/quick/l1/seed0#d_acc)",
        "[\u0661](fsq:r1/s4/quick/l1/seed0#d_acc)\u2028\x85".encode(),
        "[\x1b[31m](fsq:r1/\x1b#d_acc) [x\u202e](fsq:r1/s4/quick/l1/seed0#decision)".encode(),
    ],
    ids=range(12),
)
def test_document__known_for(content: bytes) -> None:
    targets.document(content)


def test_targets__cover_every_built_in_kind_and_format() -> None:
    from tasks import kinds
    from tasks.sources import _READERS

    assert {f"task_{kind}" for kind in kinds()} <= set(TARGETS)
    assert {f"data_{ending.removeprefix('.')}" for ending in _READERS} <= set(TARGETS)


@pytest.mark.parametrize("message", ["", " ", "two\nlines", "\x1b[31mred", "x" * 3000, "\ud800"])
def test_check_message__refuses(message: str) -> None:
    with pytest.raises(Defect):
        targets.check_message(message)


@pytest.mark.parametrize(
    "content",
    [
        b"round: &a x\nmodel: *a",  # alias
        b"<<: {round: x}",  # merge key
        b"round: !!python/name:os.system x",  # tag
        b"round: a\nround: b",  # a key twice
        b"\xef\xbb\xbf" + ROUND_YAML,  # byte order mark
        ROUND_YAML.replace(b"\n", b"\r\n"),
        ROUND_YAML.replace(b"\n", b"\r"),
        ROUND_YAML.replace(b"steps: 10", b"steps: .nan"),
        ROUND_YAML.replace(b"steps: 10", b"steps: " + b"9" * 400),
        ROUND_YAML.replace(b"steps: 10", b"steps: " + b"9" * 5000),
        ROUND_YAML.replace(b"lr: 3.0e-5", b"lr: 1e999"),
        ROUND_YAML.replace(b"night", b'"\\ud800"'),
        ROUND_YAML.replace(b"night", b'"a\\0b"'),
        ROUND_YAML.replace(b"night", b"\x00"),
        ROUND_YAML.replace(b"round:", b'"rou\\nnd\\e[31m\\u202e":'),  # a key that would paint the terminal
        ROUND_YAML.replace(b"steps: 10", b"s" * 900 + b": 10"),
        ROUND_YAML.replace(b"head_l8", b"x" * 100_000),
        ROUND_YAML + b"like: " + b"x" * 100_000,
        ROUND_YAML + b"like: a/b",
        ROUND_YAML.replace(b"seeds: [0, 1]", b"seeds: [" + b"-1," * 5000 + b"0]"),  # thousands of problems
    ],
)
def test_round__known_for(content: bytes) -> None:
    targets.round_yaml(content)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + json.dumps(ROUND).encode(),
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"\\ud800": 1}',
        b'{"a\\u0000": 1}',
        b'{"a\\n\\u001b": 1}',
        json.dumps(ROUND | {"variants": [{"name": "x", "settings": {"klip": 1}}]}).encode(),
        json.dumps(
            ROUND | {"variants": [{"from": "x"}, {"from": 1}, None, [], {"grid": {"a": []}}]}
        ).encode(),
        json.dumps(ROUND | {"tasks": {"a\nb": {"kind": "x\n" * 1000}}}).encode(),
    ],
)
def test_round__known_for_in_json(content: bytes) -> None:
    targets.round_json(content)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"": ""},
        {"\ud800": 1},
        {"x\n\x1b[31m\u202e": 1},
        {f"column {number}": 1 for number in range(1000)},
        {"x" * 100_000: 1},
        {"text": "\ud800", "question": "\ud800"},
        {"id": 10**4000, "text": "a"},
        {"text": float("nan"), "question": float("inf"), "puzzle": None, "id": []},
    ],
)
@pytest.mark.parametrize(
    "name", [name for name in TARGETS if name.startswith("task_") and name != "task_options"]
)
def test_task__known_for(name: str, row: dict[str, object]) -> None:
    TARGETS[name][0](jsonl([row]))
    TARGETS[name][0](jsonl([*rows_of(name.removeprefix("task_"), 4), row]))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02.",
        b"PK\x05\x06" + bytes(18),  # an archive of nothing
        b"PK\x03\x04",
        torch_file({1: 2}),
        torch_file({(1, 2): 3}),
        torch_file([]),
        torch_file("text"),
        b"\x80\x00\x00\x00\x00\x00\x00\x00{" + b" " * 127,  # a header's length that looks like a pickle
        b"PK\x00\x00\x00\x00\x00\x00{}",
        bytes(8) + b"{}",
        b"\xff" * 8 + b"{}",
    ],
)
def test_checkpoint__known_for(content: bytes) -> None:
    targets.checkpoint_file(content)
