from __future__ import annotations

import importlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from task_samples import Bytes, mbpp_rows, write_jsonl

from tasks import BrokenTaskKind, DataUnavailable, build, cache, parse_config
from tasks.builtin import mbpp


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    data = {"path": write_jsonl(tmp_path / "mbpp.jsonl", mbpp_rows())}
    return {"kind": "mbpp", "data": data, "train": 4, "val": 3, "max_prompt_tokens": 400}


def stored(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_build__second_build_uses_no_tokenizer(tmp_path: Path, options: dict[str, Any]) -> None:
    first, second = Bytes(), Bytes()
    built = build(options, first, cache_dir=tmp_path / "cache")
    again = build(options, second, cache_dir=tmp_path / "cache")

    assert (first.calls > 0, second.calls) == (True, 0)
    assert again[2] == built[2]
    for before, after in zip(built[:2], again[:2], strict=True):
        assert [one.id for one in before] == [one.id for one in after]
        for one, other in zip(before, after, strict=True):
            assert one.prompt.tolist() == other.prompt.tolist()
            assert one.answer.tolist() == other.answer.tolist()
            assert other.prompt.dtype == other.answer.dtype == "int32"
            assert other.prompt.flags.writeable


@pytest.mark.parametrize("place", [0, 100, -1])
def test_build__damaged_file_is_built_again(tmp_path: Path, options: dict[str, Any], place: int) -> None:
    folder = tmp_path / "cache"
    report = build(options, Bytes(), cache_dir=folder)[2]
    (path,) = stored(folder)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    tokenizer = Bytes()

    assert build(options, tokenizer, cache_dir=folder)[2] == report
    assert tokenizer.calls > 0
    assert stored(folder) == [path]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_load__cut_file_counts_as_absent(tmp_path: Path, options: dict[str, Any], size: int) -> None:
    build(options, Bytes(), cache_dir=tmp_path / "cache")
    (path,) = stored(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:size])

    assert cache.load(path) is None


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({}, 1),
        ({"batch_size": 7}, 1),
        ({"train": 5}, 2),
        ({"order": "q_after"}, 2),
        ({"max_prompt_tokens": 401}, 2),
        ({"notes": {"fill": True, "pool_size": 3}}, 2),
    ],
)
def test_build__key_covers_what_matters(
    tmp_path: Path, options: dict[str, Any], change: dict[str, Any], files: int
) -> None:
    for changed in (options, options | change):
        build(changed, Bytes(), cache_dir=tmp_path / "cache")

    assert len(stored(tmp_path / "cache")) == files


def test_build__key_covers_data_tokenizer_and_version(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    copy = write_jsonl(tmp_path / "copy.jsonl", mbpp_rows())
    other = write_jsonl(tmp_path / "other.jsonl", mbpp_rows(train=9))
    renamed = Bytes()
    renamed.name = "other-bytes"

    build(options, Bytes(), cache_dir=folder)
    build(options | {"data": {"path": copy}}, Bytes(), cache_dir=folder)
    assert len(stored(folder)) == 1
    build(options | {"data": {"path": other}}, Bytes(), cache_dir=folder)
    assert len(stored(folder)) == 2
    build(options, renamed, cache_dir=folder)
    assert len(stored(folder)) == 3
    monkeypatch.setattr(cache, "BUILD_VERSION", cache.BUILD_VERSION + 1)
    build(options, Bytes(), cache_dir=folder)
    assert len(stored(folder)) == 4


PLUG_IN = """
from tasks import Candidate, Columns, Part, Row, Task, TaskConfig

class Said(Task[TaskConfig]):
    Config = TaskConfig
    summary = "says {word}"
    columns = Columns(required={{"text": ("text",)}})

    def candidate(self, row: Row) -> Candidate:
        return Candidate(content=row.text("text"), prompt=(Part("{word}"),), answer="a")
"""


def test_code__is_that_of_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds an older version must not store its examples under the newer one's name."""
    file = tmp_path / "said_plug_in.py"
    file.write_text(PLUG_IN.format(word="one"))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("said_plug_in")
    old = module.Said
    first = old.code
    file.write_text(PLUG_IN.format(word="another"))
    assert old.code == first

    assert importlib.reload(module).Said.code != first
    file.write_text(PLUG_IN.format(word="one"))
    assert importlib.reload(module).Said.code == first


def test_code__covers_the_modules_of_the_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said_base.py").write_text(PLUG_IN.format(word="one"))
    (tmp_path / "said_more.py").write_text("from said_base import Said\n\nclass More(Said):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    base, more = importlib.import_module("said_base"), importlib.import_module("said_more")
    first = more.More.code
    (tmp_path / "said_base.py").write_text(PLUG_IN.format(word="another"))
    importlib.reload(base)

    assert importlib.reload(more).More.code != first


def test_code__of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = set()
    for word in ("one", "another"):
        archive = tmp_path / f"{word}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(f"said_{word}.py", PLUG_IN.format(word=word))
        monkeypatch.syspath_prepend(archive)
        codes.add(importlib.import_module(f"said_{word}").Said.code)

    assert len(codes - {""}) == 2


def test_file_name__has_the_code(options: dict[str, Any]) -> None:
    config = parse_config(options)
    assert cache.file_name(config, "a", "s", Bytes()) != cache.file_name(config, "b", "s", Bytes())


def test_build__error_of_the_kind_is_not_the_storages(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise FileNotFoundError("a list that the plug-in needs")

    monkeypatch.setattr(mbpp.Mbpp, "candidate", fail)
    with pytest.raises(BrokenTaskKind, match="FileNotFoundError: a list that the plug-in needs"):
        build(options, Bytes(), cache_dir=tmp_path / "cache")


def test_save__failed_write_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)

    with pytest.raises(DataUnavailable, match="cannot be kept: No space left"):
        build(options, Bytes(), cache_dir=tmp_path / "cache")
    assert stored(tmp_path / "cache") == []
