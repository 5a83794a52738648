"""Reading YAML: values, lines, and everything that is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import BadRound
from orchestrator.rounds.round_file import MAX_BYTES, parse, parse_json

TEXT = st.text(
    st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\0")
)  # JSON escapes the rest in pairs
# YAML's own limit for a key is 1,024 characters, escapes counted as they are written.
KEY = TEXT.filter(lambda text: len(text) <= 80)


def problem(content: bytes) -> str:
    with pytest.raises(BadRound) as caught:
        parse(content, "r.yaml")
    return str(caught.value)


def test_parse__numbers_as_in_yaml_1_2() -> None:
    text = (
        b"a: 1e-4\nb: 3.0e-5\nc: 012\nd: 1_000\ne: 2026-01-01\nf: yes\ng: ~\nh: .5\ni: 'x'\nj: none\nk: 1:30"
        b"\nl: 0x14\nm: 0o24"
    )
    assert parse(text, "r").data == {
        "a": 1e-4,
        "b": 3e-5,
        "c": "012",
        "d": "1_000",
        "e": "2026-01-01",
        "f": True,
        "g": None,
        "h": 0.5,
        "i": "x",
        "j": "none",
        "k": "1:30",
        "l": 20,
        "m": 20,
    }


def test_parse__knows_the_line_of_everything() -> None:
    file = parse(b"a: 1\nb:\n  - {c: 2}\n  - d:\n      e: 3\n", "r")
    assert [file.line_of(place) for place in [("a",), ("b", 0, "c"), ("b", 1, "d", "e"), ("b", 1, "d", "zzz")]] == [
        1, 3, 5, 4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a: &x 1\nb: *x",
            "r.yaml: line 1: anchors and aliases (&, *) are not accepted; write the value out",
        ),
        (b"a: 1\na: 2", "r.yaml: line 2, a: the key 'a' stands twice in one mapping"),
        (b"a: !!python/object/apply:os.system [x]", "line 1: the tag tag:yaml.org,2002:python/object/apply"),
        (b"a: !include x", "r.yaml: line 1: the tag !include is not accepted"),
        (b"- 1", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"a: [1, 2", "r.yaml: line 1: not valid YAML"),
        (b"? [1]\n: 2", "a key must be plain text"),
        (b"a: 1\n---\nb: 2", "not valid YAML"),
        (b"ok: 1\nname: \xff\xfe", "r.yaml: line 2: not UTF-8 text (byte 0xff)"),
        (b"a: \x00", "not valid YAML"),
        (b"x" * (MAX_BYTES + 1), "the file has 1,000,001 bytes; a round file has at most 1,000,000"),
        (b"[" * 500 + b"]" * 500, "nested more than 20 levels deep"),
        (b'a: "\\ud800"', "line 1, a: cannot be read as str"),
        (b'b: 1\n"\\ud800": a', "line 2: a null character or a lone surrogate in a key"),
        (b"a: " + b"9" * 5000, "cannot be read as int"),
    ],
)
def test_parse__refuses(content: bytes, message: str) -> None:
    assert message in problem(content)


@given(st.binary(max_size=300))
def test_parse__any_bytes_give_a_mapping_or_one_clear_error(content: bytes) -> None:
    try:
        assert isinstance(parse(content, "r.yaml").data, dict)
    except BadRound as error:
        assert str(error).startswith("r.yaml: ")


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), TEXT),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(KEY, inner)),
        max_leaves=20,
    )
)
def test_parse__json_is_yaml(value: object) -> None:
    assert parse(json.dumps({"a": value}).encode(), "r").data == {"a": value}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": [' + b"1, " * 10_000 + b"1]}", "more than 10,000 values"),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "nested more than 20 levels deep"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": "x\\u0000y"}', "a null character"),
        (b'{"a\\u0000": 1}', "a null character"),
    ],
)
def test_parse_json__refuses(content: bytes, message: str) -> None:
    with pytest.raises(BadRound, match=message):
        parse_json(content, "r")


def test_parse__refuses_too_many_values_at_once() -> None:
    with pytest.raises(BadRound, match="line 10000: more than 10,000 keys and values"):
        parse(b"\n".join(b"- x" for _ in range(100_000)), "r")


def test_parse__refuses_null_characters() -> None:
    with pytest.raises(BadRound, match="line 2, b: cannot be read as str"):
        parse(b'a: 1\nb: "x\\0y"', "r")
