"""Third-party kinds, installed the way a package installs them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, create_model, model_validator
from task_samples import Bytes, write_jsonl

from tasks import (
    BrokenTaskKind,
    Candidate,
    Columns,
    DataError,
    Part,
    Row,
    RowError,
    TaskConfig,
    build,
    get_kind,
    kinds,
    parse_config,
)
from worker.job import task_kinds

REVERSE = '''
from typing import Annotated, Literal
from pydantic import Field
from tasks import Candidate, Columns, Cut, Part, Row, RowError, Task, TaskConfig


class ReverseConfig(TaskConfig):
    kind: Literal["reverse"] = "reverse"
    train: int = 3
    val: int = 1
    max_prompt_tokens: int = 40
    max_answer_tokens: int = 8
    shout: Annotated[bool, Field(description="In capitals.")] = False


class Reverse(Task[ReverseConfig]):
    """A word backwards."""

    Config = ReverseConfig
    summary = "words backwards"
    columns = Columns(required={"word": ("word",)}, optional={"story": ("story",)})

    def candidate(self, row: Row) -> Candidate:
        word = row.text("word")
        if word == "no":
            raise RowError("refused")
        answer = word[::-1].upper() if self.config.shout else word[::-1]
        story = Part(str(row.get("story") or ""), cut=Cut.LEFT)
        return Candidate(content=word, prompt=(story, Part(f"Reverse {word}: ")), answer=answer)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reverse_plugin.py").write_text(REVERSE)
    (tmp_path / "broken_plugin.py").write_text("import a_package_that_is_not_there\n")
    info = tmp_path / "plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fsq.tasks]\nreverse = reverse_plugin:Reverse\nbroken = broken_plugin:Task\n"
        "config = reverse_plugin:ReverseConfig\narc = reverse_plugin:Reverse\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_kinds__leaves_broken_plugins_out() -> None:
    found = kinds()

    assert {"reverse", "mbpp", "sudoku"} <= set(found)
    assert not {"broken", "config", "arc"} & set(found)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "broken",
            "task kind 'broken' (broken_plugin:Task of plugins) cannot be loaded: "
            "ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
        ),
        ("config", "task kind 'config': reverse_plugin:ReverseConfig is not a subclass of tasks.Task"),
        (
            "arc",
            "task kind 'arc' is registered more than once: reverse_plugin:Reverse, tasks.builtin.arc:Arc",
        ),
    ],
)
def test_get_kind__says_why_a_plugin_is_broken(kind: str, message: str) -> None:
    with pytest.raises(BrokenTaskKind) as caught:
        get_kind(kind)

    assert str(caught.value) == message


@pytest.mark.usefixtures("installed")
def test_build__third_party_kind(tmp_path: Path, tokenizer: Bytes) -> None:
    words = ["no", *("".join(pair) for pair in itertools.product("abc", "lmnop"))]
    rows = [{"word": word, "story": "once upon a time there was a word " * 2} for word in words]
    data = {"path": write_jsonl(tmp_path / "words.jsonl", rows)}

    train, val, report = build({"kind": "reverse", "data": data, "shout": True}, tokenizer)

    assert (len(train), len(val), report.train.truncated) == (3, 1, 1.0)
    assert report.val.symbols_per_answer is None
    for example in [*train, *val]:
        prompt, answer = tokenizer.decode(example.prompt.tolist()), tokenizer.decode(example.answer.tolist())
        assert len(prompt) == 40
        assert prompt.endswith(f" Reverse {answer[::-1].lower()}: ")
        assert answer.isupper()


ROW = """'{"word": "al"}'"""


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("method", "does", "said"),
    [
        ("candidate", "raise KeyError('colour')", f"on the row {ROW}: KeyError: 'colour'"),
        ("candidate", "raise SystemExit(3)", "SystemExit: 3"),
        ("candidate", "return None", "TypeError: expected a Candidate, not None"),
        ("candidate", "return Candidate(content='a', prompt=(Part('a'),), answer=5)", "expected text, not 5"),
        (
            "candidate",
            "return Candidate(content='a', prompt='text', answer='b')",
            "prompt: expected a tuple of Part",
        ),
        (
            "candidate",
            "return Candidate(content='a', prompt=('t',), answer='b')",
            "expected Part or NotesSlot",
        ),
        (
            "candidate",
            "return Candidate(content='a', prompt=(Part(b'a'),), answer='b')",
            "expected text, not b'a'",
        ),
        ("candidate", "return Candidate(content='a', prompt=(), answer='b', choices=0)", "choices: expected"),
        ("split_of", "return 'nowhere'", f"to place the row {ROW}: ValueError: 'nowhere'"),
    ],
)
def test_build__third_party_kind_that_fails(
    method: str, does: str, said: str, tmp_path: Path, tokenizer: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, Any] = {"Candidate": Candidate, "Part": Part}
    exec(f"def {method}(self, row):\n    {does}", namespace)  # noqa: S102
    monkeypatch.setattr(get_kind("reverse"), method, namespace[method])
    path = write_jsonl(tmp_path / "words.jsonl", [{"word": "al"}])
    with pytest.raises(BrokenTaskKind, match=r"^task kind 'reverse' failed ") as broken:
        build({"kind": "reverse", "data": {"path": path}}, tokenizer)
    assert said in str(broken.value)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("Config", None, "has no Config that is a subclass of tasks.TaskConfig"),
        ("Config", dict, "has no Config that is a subclass of tasks.TaskConfig"),
        ("summary", 5, "has no summary, one line of text"),
        ("__abstractmethods__", frozenset({"columns", "candidate"}), "does not define candidate, columns"),
    ],
)
def test_get_kind__that_lacks_something(
    attribute: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are listed nevertheless."""
    monkeypatch.setattr(get_kind("reverse"), attribute, value)
    with pytest.raises(BrokenTaskKind, match=f"^task kind 'reverse': reverse_plugin:Reverse {said}$"):
        get_kind("reverse")
    assert "sudoku" in kinds()
    assert "reverse" not in kinds()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("value", [{"word": "word"}, property(lambda _: 1 / 0)], ids=["a mapping", "raises"])
def test_build__third_party_kind_without_columns(
    value: Any, tmp_path: Path, tokenizer: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_kind("reverse"), "columns", value)
    path = write_jsonl(tmp_path / "words.jsonl", [{"word": "al"}])
    with pytest.raises(BrokenTaskKind, match=r"^task kind 'reverse' failed to name its columns: "):
        build({"kind": "reverse", "data": {"path": path}}, tokenizer)


def test_columns__names_that_are_no_tuple() -> None:
    """A text would be taken letter by letter."""
    with pytest.raises(TypeError, match="column 'word': expected a tuple of names, not 'text'"):
        Columns(required={"word": "text"})  # type: ignore[dict-item]


@pytest.mark.usefixtures("installed")
def test_build__third_party_kind_that_forgets_its_options(
    tmp_path: Path, tokenizer: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_kind("reverse"), "__init__", lambda _self, _config: None)
    path = write_jsonl(tmp_path / "words.jsonl", [{"word": "al"}])
    with pytest.raises(BrokenTaskKind, match=r"to take its options: .*super\(\).__init__\(config\)"):
        build({"kind": "reverse", "data": {"path": path}}, tokenizer)


@pytest.mark.usefixtures("installed")
def test_task_kinds__defaults_that_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def defaults(factory: Any) -> Any:
        config = create_model("Config", __base__=TaskConfig, words=(Any, Field(default_factory=factory)))
        monkeypatch.setattr(get_kind("reverse"), "Config", config)
        found = task_kinds()
        assert "sudoku" in found
        return found.get("reverse", {}).get("options", {}).get("words", "left out")

    assert defaults(list) == {"required": False, "default": [], "meaning": ""}
    assert defaults(lambda data: data["train"])["default"] is None  # it follows from another option
    assert defaults(lambda: 1 / 0) == "left out"


@pytest.mark.usefixtures("installed")
def test_parse_config__third_party_kind_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config(TaskConfig):
        max_prompt_tokens: int = 40
        max_answer_tokens: int = 8

        @model_validator(mode="after")
        def check(self) -> Any:
            raise KeyError("x")

    monkeypatch.setattr(get_kind("reverse"), "Config", Config)
    with pytest.raises(BrokenTaskKind, match="'reverse' failed to check its options: KeyError: 'x'"):
        parse_config({"kind": "reverse", "train": 1, "val": 1})


def test_row_error__is_a_short_text() -> None:
    """As every database and terminal can have it."""
    assert RowError("a\0b\ud800\x1b[31m\n").reason == "a\\x00b\\ud800\\x1b[31m\\n"
    assert RowError(5).reason == "5"  # type: ignore[arg-type]
    assert len(RowError("x" * 5000).reason) < 100


@pytest.mark.usefixtures("installed")
def test_build__third_party_kind_with_a_reason_for_each_row(
    tmp_path: Path, tokenizer: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def candidate(self: object, row: Row) -> Candidate:
        word = row.text("word")
        if word.startswith("x"):
            raise RowError(f"unknown {word}")
        return Candidate(content=word, prompt=(Part(word),), answer=word)

    monkeypatch.setattr(get_kind("reverse"), "candidate", candidate)
    rows = [{"word": f"{letter}{number}"} for letter in "xy" for number in range(200)]
    path = write_jsonl(tmp_path / "words.jsonl", rows)
    _, _, report = build({"kind": "reverse", "data": {"path": path}, "train": 150, "val": 2}, tokenizer)
    dropped = report.train.dropped
    assert (len(dropped), set(dropped.values()) - {1}) == (51, {dropped["other"]})


@pytest.mark.usefixtures("installed")
def test_build__third_party_kind_that_generates_no_rows(
    tokenizer: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_kind("reverse"), "generate", lambda *_: iter(["word"]))
    with pytest.raises(
        BrokenTaskKind, match="failed to generate rows for val: TypeError: expected a Row, not 'word'"
    ):
        build({"kind": "reverse"}, tokenizer)


@pytest.mark.usefixtures("installed")
def test_build__third_party_kind_that_fails_to_generate(
    tokenizer: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(self: object, split: object) -> Any:
        yield from ()
        raise ArithmeticError("out of words")

    monkeypatch.setattr(get_kind("reverse"), "generate", generate)
    with pytest.raises(
        BrokenTaskKind, match="failed to generate rows for val: ArithmeticError: out of words"
    ):
        build({"kind": "reverse"}, tokenizer)


@pytest.mark.usefixtures("installed")
def test_build__kind_that_makes_no_rows_needs_data(tokenizer: Bytes) -> None:
    with pytest.raises(DataError, match=r"^reverse needs data: give data: \{path: FILE\}$"):
        build({"kind": "reverse"}, tokenizer)
