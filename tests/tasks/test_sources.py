from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import Data, DataError, DataUnavailable, Split, sources
from tasks.sources import RawRow, open_source


def read(path: Path, content: bytes) -> list[RawRow]:
    path.write_bytes(content)
    (table,) = open_source(Data(path=path)).read()
    assert (table.name, table.split) == (str(path), None)
    return table.rows


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', [{"a": 1}, {"a": "x"}]),
        ("a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("a.jsonl", '{"a": "one\u2028line\x85"}\n'.encode(), [{"a": "one\u2028line\x85"}]),
        ("A.JSONL", b'{"a": null}', [{"a": None}]),
        ("a.txt", b"\xef\xbb\xbfone\r\n\ntwo \n", [{"text": "one"}, {"text": "two "}]),
        ("a.csv", b"\xef\xbb\xbfx,y\r\n1,\r\n\r\n2,b\r\n", [{"x": "1", "y": ""}, {"x": "2", "y": "b"}]),
        ("a.csv", b'x,y\n"1\n2","a ""b"""\n', [{"x": "1\n2", "y": 'a "b"'}]),
        ("a.csv", b"\n\r\nx,y\n1,2\n", [{"x": "1", "y": "2"}]),
    ],
)
def test_read__formats(tmp_path: Path, name: str, content: bytes, rows: list[RawRow]) -> None:
    assert read(tmp_path / name, content) == rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_read__line_of_ten_megabytes(tmp_path: Path, name: str) -> None:
    long = "x" * 10_000_000
    content = json.dumps({"a": long}) if name == "a.jsonl" else f"a\n{long}\n"
    limit = csv.field_size_limit()

    assert read(tmp_path / name, content.encode()) == [{"a": long}]
    assert csv.field_size_limit() == limit


def test_read__parquet(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": ["x", "y"]}, {"a": None, "b": []}]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    assert read(path, path.read_bytes()) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', "{path} line 2: not valid JSON: Expecting value (column 7)"),
        ("a.jsonl", b'\n{"a": 1}\n[1, 2]\n', "{path} line 3: expected a JSON object, found list"),
        ("a.jsonl", b'{"a": 1}\n\xff\xfe\x00', "{path} line 2: not UTF-8 text (byte 0xff)"),
        ("a.jsonl", b"[" * 100_000, "{path} line 1: unreadable JSON: "),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "{path} line 1: unreadable JSON: "),
        (
            "a.jsonl",
            b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
            "{path} line 1: nested more than 100 levels deep",
        ),
        ("a.jsonl", b"\n\n", "{path}: holds no rows"),
        ("a.csv", b"x,y\n", "{path}: holds no rows"),
        ("a.csv", b"x,y\n1,2\n1,2,3\n", "{path} line 3: 3 cells, the header has 2"),
        ("a.csv", b"x,y\n1\n", "{path} line 2: 1 cells, the header has 2"),
        ("a.csv", b"x,y,x\n1,2,3\n", "{path} line 1: two columns are named 'x'"),
        ("a.csv", b"\nx,y,x\n1,2,3\n", "{path} line 2: two columns are named 'x'"),
        ("a.csv", b'x,y\n"1,2\n', "{path} line 2: not valid CSV: "),
        ("a.csv", b"x,y\n1,2\n\x80,3\n", "{path} line 3: not UTF-8 text (byte 0x80)"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "{path} line 1: not UTF-8 text (byte 0x89)"),
        ("a.parquet", b"PAR1 or not", "{path}: not a readable Parquet file: "),
        ("a.xml", b"<a/>", "{path}: unknown format .xml: expected .jsonl, .csv, .txt, .parquet"),
        ("a", b"a", "{path}: unknown format (no ending): expected .jsonl, .csv, .txt, .parquet"),
    ],
)
def test_read__malformed_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name

    with pytest.raises(DataError) as caught:
        read(path, content)

    assert str(caught.value).startswith(message.format(path=path))


def test_open_source__missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mbpp.jsonl").write_text("{}")

    with pytest.raises(DataError, match=r"mbbp\.jsonl: no such file \(did you mean mbpp\.jsonl\?\)$"):
        open_source(Data(path=tmp_path / "mbbp.jsonl"))
    with pytest.raises(DataError, match=r"no such file$"):
        open_source(Data(path=tmp_path / "nowhere" / "mbpp.jsonl"))


def test_open_source__directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a file: Is a directory"):
        open_source(Data(path=tmp_path))


def test_open_source__device() -> None:
    with pytest.raises(DataError, match="/dev/zero: expected a file, found a pipe, socket or device"):
        open_source(Data(path=Path("/dev/zero")))


def test_open_source__too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # takes no space

    with pytest.raises(DataError, match=r"a\.txt: has 2,147,483,649 bytes, more than 2,147,483,648"):
        open_source(Data(path=path))


def test_read__parquet_with_too_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.nulls(5_000_001)}), path)

    with pytest.raises(DataError, match=r"a\.parquet: has 5,000,001 rows, more than 5,000,000"):
        read(path, path.read_bytes())


def test_read__parquet_that_unfolds_to_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1_000_000)
    indices = pyarrow.array([0] * 2000, pyarrow.int8())
    table = pyarrow.table({"a": pyarrow.DictionaryArray.from_arrays(indices, ["x" * 1000])})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    assert path.stat().st_size < 10_000

    with pytest.raises(DataError, match=r"a\.parquet: has 1,0\d\d,\d\d\d bytes, more than 1,000,000"):
        read(path, path.read_bytes())


def test_open_source__failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    (tmp_path / "a.txt").write_text("whole")
    monkeypatch.setattr(Path, "read_bytes", fail)

    with pytest.raises(DataUnavailable, match=r"a\.txt: reading failed: Input/output error"):
        open_source(Data(path=tmp_path / "a.txt"))


def test_read__file_for_each_split(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(name)

    tables = open_source(Data(train=tmp_path / "one.txt", val=tmp_path / "two.txt")).read()

    assert [(table.split, table.rows) for table in tables] == [
        (Split.TRAIN, [{"text": "one"}]),
        (Split.VAL, [{"text": "two"}]),
    ]


def test_fingerprint__content_and_role_but_not_name(tmp_path: Path) -> None:
    one, copy, two = (tmp_path / name for name in ("one.txt", "copy.txt", "two.txt"))
    one.write_text("1")
    copy.write_text("1")
    two.write_text("2")

    def fingerprint(**data: Path) -> str:
        return open_source(Data.model_validate(data)).fingerprint

    assert fingerprint(path=one) == fingerprint(path=copy)
    distinct = [fingerprint(path=one), fingerprint(path=two), fingerprint(train=one, val=two)]
    assert len({*distinct, fingerprint(train=two, val=one)}) == 4


@given(st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.text()), min_size=1))
def test_read__jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[RawRow]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    content = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)

    assert read(path, content.encode("utf-8", errors="surrogatepass")) == rows
