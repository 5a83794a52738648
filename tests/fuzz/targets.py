"""The ways in, each as a function of bytes that raises only where there is a defect, and says whether it took them.

Allowed is a result, or the one documented error of its layer with a clear message; both within MOST_SECONDS of
processor time. Hypothesis (`test_targets`) and atheris (`coverage_guided`) drive the same functions.
"""

from __future__ import annotations

import atexit
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx2
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from db import tokens
from db.session import Database, open_current
from db.tables import Token
from model import checkpoint, get_tokenizer
from model.errors import CheckpointError
from orchestrator.api.app import create_app
from orchestrator.audit import judging, reporting
from orchestrator.errors import BadInput, BadRound, NotFound
from orchestrator.history.entries import History
from orchestrator.history.importing import import_files, totals
from orchestrator.history.lines import Skipped
from orchestrator.history.reading import read_file
from orchestrator.history.sources import of_imported
from orchestrator.reports import manifest, references
from orchestrator.reports.references import Known
from orchestrator.rounds.reading import parse_task, validate
from orchestrator.rounds.round_file import RoundFile, parse, parse_json
from orchestrator.rounds.spec import RoundSpec
from orchestrator.wiring import refusal
from tasks import Data, DataError, TaskError, build
from tasks.sources import open_source
from tests.fuzz.seeds import (
    LEDGER,
    OPTIONS,
    RECORDS,
    ROUND,
    ROUND_YAML,
    jsonl,
    new_folder,
    parquet,
    rows_of,
    safetensors_file,
    torch_file,
)
from worker.job import HubCheckpoint, RoundFacts
from worker.preparation import Unusable, prepare

Target = Callable[[bytes], bool]

MOST_SECONDS = 10.0
LONGEST_MESSAGE = 2_000
MOST_PROBLEMS = 101
TODAY = date(2026, 1, 1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "s" * 43
TOKEN = f"fsq_1_{SECRET}".encode()


class Defect(Exception):
    """An answer that is neither a result nor one clear error."""


def check_message(message: str) -> None:
    """Raises Defect where this is not one readable paragraph."""
    if not message.strip() or not message.isprintable() or len(message) > LONGEST_MESSAGE:
        raise Defect(f"no clear message ({len(message)} characters): {message[:300]!r}")


@contextmanager
def bounded() -> Iterator[None]:
    """Raises Defect where the processor was busy for too long."""
    begin = time.process_time()
    yield
    spent = time.process_time() - begin
    if spent > MOST_SECONDS:
        raise Defect(f"took {spent:.1f} s")


def round_yaml(content: bytes) -> bool:
    """What `fsq submit` does with a round file before it looks at any data."""
    return _round(lambda: parse(content, "r.yaml"))


def round_json(content: bytes) -> bool:
    """The same for a round written as JSON."""
    return _round(lambda: parse_json(content, "r.json"))


def _round(read: Callable[[], RoundFile]) -> bool:
    with bounded():
        try:
            spec = validate(read(), today=TODAY).resolved(Path("/somewhere"))
        except BadRound as error:
            return _refused_with_problems(error)
        except NotFound as error:
            return _refused(error)
        if RoundSpec.from_json(spec.model_dump(mode="json")) != spec:
            raise Defect("a round that is another one when it has been stored")
        return True


def _refused(error: Exception) -> Literal[False]:
    check_message(str(error))
    return False


def _refused_with_problems(error: BadRound) -> Literal[False]:
    if not 1 <= len(error.problems) <= MOST_PROBLEMS:
        raise Defect(f"{len(error.problems)} problems")
    for problem in error.problems:
        check_message(str(problem))
    return False


def task_options(content: bytes) -> bool:
    """The options of a task, as a round file has them in JSON; where they are good, a build from a few rows."""
    with bounded():
        try:
            options = parse_json(content, "options").data
            config = parse_task(str(options.get("kind", "arc")), options)
        except BadRound as error:
            return _refused_with_problems(error)
        except TaskError as error:
            return _refused(error)
        if config.kind not in OPTIONS or config.train > 100 or config.val > 100:
            return False  # a larger build may take as long as it takes
        data = None if config.kind == "sudoku" else Data(path=_rows_file(config.kind))
        return _built(config.model_copy(update={"data": data}))


@cache
def _rows_file(kind: str) -> Path:
    path = workplace() / f"{kind}.jsonl"
    path.write_bytes(jsonl(rows_of(kind)))
    return path


def _built(config: Any) -> bool:
    try:
        train, val, report = build(config, get_tokenizer("bytes"))
    except TaskError as error:
        return _refused(error)
    if (len(train), len(val)) != (report.train.kept, report.val.kept):
        raise Defect("a report on other examples")
    return True


def checkpoint_file(content: bytes) -> bool:
    """A checkpoint, by what its first bytes say it is; what is inspected is what is then read."""
    path = _written("model.bin", content)
    with bounded():
        inspected = _tensors_or_error(lambda: checkpoint.inspect(path).tensors())
        read = _tensors_or_error(
            lambda: {key: tuple(tensor.shape) for key, tensor in checkpoint.read(path).items()}
        )
    if inspected != read:
        raise Defect(f"inspected {inspected} and read {read}")
    return read is not None


def _tensors_or_error(
    ask: Callable[[], Mapping[str, tuple[int, ...]]],
) -> Mapping[str, tuple[int, ...]] | None:
    try:
        return ask()
    except CheckpointError as error:
        check_message(str(error))
        return None


def data_file(ending: str) -> Target:
    """The rows of a file of this format."""

    def target(content: bytes) -> bool:
        path = _written(f"rows{ending}", content)
        with bounded():
            try:
                (table,) = open_source(Data(path=path)).read()
            except DataError as error:
                return _refused(error)
            if not table.rows:
                raise Defect("a table without rows")
            return True

    return target


def task(kind: str) -> Target:
    """The examples of a built-in kind from a file of JSON lines."""

    def target(content: bytes) -> bool:
        path = _written("rows.jsonl", content)
        options = {"kind": kind, "train": 2, "val": 1, "data": {"path": path}}
        with bounded():
            try:
                built = build(options | dict(OPTIONS[kind]), get_tokenizer("bytes"))
            except TaskError as error:
                return _refused(error)
            json.dumps(built[2].model_dump(mode="json"), allow_nan=False).encode()
            return True

    return target


def records_file(name: str) -> Target:
    """Records of the past: read, judged, and imported twice."""

    def target(content: bytes) -> bool:
        path = _written(name, content)
        with bounded():
            history = History()
            for line in read_file(path):
                if isinstance(line, Skipped):
                    check_message(str(line))
                else:
                    history.add(line.entry)
            _check_audit(judging.audit(history))
            told: list[str] = []
            first, again = (
                totals(import_files(imported(), [path], told.append, now=NOW, strict=False)) for _ in range(2)
            )
            for _ in of_imported(imported()):
                pass
        if again["added"] or first["added"] + first["known"] != again["known"]:
            raise Defect(f"imported {first}, and then {again}")
        for message in told:
            check_message(message)
        return not first["skipped"]

    return target


def _check_audit(audit: judging.Audit) -> None:
    told = reporting.as_json(audit)
    json.dumps(told, allow_nan=False).encode()
    for finding in told["findings"]:
        if not finding["text"].isprintable() or not finding["records"]:
            raise Defect(f"a finding that is none: {finding}")
    reporting.as_markdown(audit).encode()
    reporting.as_text(audit).encode()


@cache
def imported() -> Database:
    """A database for imported records."""
    return open_current(f"sqlite:///{workplace() / 'imported.db'}")


def manifest_file(content: bytes) -> bool:
    """A manifest of experiments; what is read is read again from what is written of it."""
    with bounded():
        try:
            found = manifest.read(content, "m.json")
        except BadInput as error:
            return _refused(error)
        if manifest.read(manifest.to_json(found).encode(), "m.json") != found:
            raise Defect("a manifest that is another one when it has been written")
        return True


def document(content: bytes) -> bool:
    """A Markdown file held against a manifest; every finding is on a line of the file."""
    with bounded():
        text = content.decode("utf-8-sig", "replace")
        lines = text.count("\n") + 1
        known = Known(manifest.read(MANIFEST, "m.json"))
        findings = references.check(references.read(text, "d.md"), known)
        for finding in findings:
            check_message(str(finding))
            if not 1 <= finding.line <= lines:
                raise Defect(f"a finding on line {finding.line}")
        return not findings


def submission(content_type: str) -> Target:
    """A round posted to the server, as a dry run and then in earnest."""

    def target(content: bytes) -> bool:
        if _takes_long(content_type, content):
            return False
        for query in ("?dry_run=true", ""):
            answer = _post(f"/api/v1/rounds{query}", content, content_type)
            if answer.status_code == 201:
                name = answer.json()["round"]
                with capture_logs():
                    _check_answer(client().get(f"/api/v1/rounds/{name}/jobs"))
                    _check_answer(client().get(f"/rounds/{name}"))
                _post(f"/api/v1/rounds/{name}/cancel", content, content_type)
        return answer.status_code in (200, 201)  # 200: known already

    return target


def _takes_long(content_type: str, content: bytes) -> bool:
    """Whether a round asks for the network, or for more than a fuzzer has time for."""
    try:
        file = parse_json(content, "r") if "json" in content_type else parse(content, "r")
        spec = validate(file, today=TODAY)
    except (BadRound, NotFound):
        return False
    model = spec.model.checkpoint
    if isinstance(model, HubCheckpoint):
        return True
    hubs = [task.data is not None and task.data.hub is not None for task in spec.tasks.values()]
    return any(hubs) or spec.most_jobs > 200 or any(t.train + t.val > 50 for t in spec.tasks.values())


def form(content_type: str) -> Target:
    """The only form of the pages that has fields: signing in."""

    def target(content: bytes) -> bool:
        return _post("/login", content, content_type).status_code == 303

    return target


def _post(path: str, content: bytes, content_type: str) -> httpx2.Response:
    with bounded(), capture_logs():
        answer = client().post(path, content=content, headers={"Content-Type": content_type})
    _check_answer(answer)
    return answer


def _check_answer(answer: httpx2.Response) -> None:
    if answer.status_code >= 500:
        raise Defect(f"{answer.request.url} answered {answer.status_code}: {answer.text[:300]}")
    if answer.status_code < 400 or answer.headers["Content-Type"].startswith("text/html"):
        return
    told = answer.json()
    if told["status"] != answer.status_code:
        raise Defect(f"says {told['status']} in {answer.status_code}")
    for message in [each["message"] for each in told.get("problems", [])] or [told["detail"]]:
        check_message(message)


@cache
def client() -> TestClient:
    """A client of the whole application, on a database of its own."""
    data = workplace() / "data"
    data.mkdir()
    (data / "rows.jsonl").write_bytes(jsonl(rows_of("punctuation")))
    database = open_current(f"sqlite:///{workplace() / 'fsq.db'}")
    with database.write() as session:
        session.add(Token(id=1, name="me", digest=tokens._digest(SECRET), scope="submit", created_at=NOW))
    home = workplace() / "home"
    app = create_app(database, _prepare, home=home, roots=[data], hosts={"127.0.0.1"}, is_open=True)
    return TestClient(app, base_url="http://127.0.0.1", follow_redirects=False, raise_server_exceptions=False)


def _prepare(spec: RoundSpec, file: RoundFile) -> RoundFacts:
    try:
        return prepare(spec.model, spec.tasks, workplace() / "cache", held_out=spec.held_out())
    except Unusable as unusable:
        raise refusal(file.name, unusable.problems, file) from None


def _written(name: str, content: bytes) -> Path:
    path = workplace() / name
    path.write_bytes(content)
    return path


@cache
def workplace() -> Path:
    """Where targets write; removed when the process that asked first ends in order, not by its forks."""
    folder = new_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


JSON, YAML = "application/json", "application/yaml"
URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
MANIFEST = (
    b'{"rounds": [{"round": "r1", "state": "finished", "file": "_r1_records.jsonl", "sha256": "'
    + b"0" * 64
    + b'", "records": 1}], "results": [{"id": "r1/s4/quick/l1/seed0", '
    b'"figures": {"d_acc": 0.025, "decision": "promoted", "steps": 4}}]}'
)
DOCUMENT = (
    b"# T\n\n[+2.50 pp](fsq:r1/s4/quick/l1/seed0#d_acc), [promoted](fsq:r1/s4/quick/l1/seed0#decision)\n"
    b"```\n[x](fsq:x)\n```\n[**2.5%**](fsq:r1/s4/quick/l1/seed0#d_acc) in `_r1_records.jsonl`, _summary_r1.txt\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\n' + TOKEN + b"\r\n--b--\r\n"

# Every target with valid input for it.
TARGETS: Mapping[str, tuple[Target, tuple[bytes, ...]]] = {
    "round_yaml": (round_yaml, (ROUND_YAML, json.dumps(ROUND).encode())),
    "round_json": (round_json, (json.dumps(ROUND).encode(),)),
    "task_options": (
        task_options,
        tuple(json.dumps({"kind": kind, "train": 2, "val": 1, **OPTIONS[kind]}).encode() for kind in OPTIONS),
    ),
    "checkpoint": (checkpoint_file, (safetensors_file(), torch_file(), torch_file(zipped=False))),
    "data_jsonl": (data_file(".jsonl"), (jsonl(rows_of("arc", 2)),)),
    "data_csv": (data_file(".csv"), (b'id,text\r\n1,"a ""b""\r\nc"\r\n2,\r\n',)),
    "data_txt": (data_file(".txt"), (b"one\r\ntwo\n",)),
    "data_parquet": (
        data_file(".parquet"),
        (parquet(rows_of("arc", 3)), parquet(rows_of("sudoku"), use_dictionary=False)),
    ),
    **{f"task_{kind}": (task(kind), (jsonl(rows_of(kind)),)) for kind in OPTIONS},
    "records_jsonl": (records_file("_round20_x_records.jsonl"), (RECORDS,)),
    "records_csv": (records_file("ledger.csv"), (LEDGER,)),
    "manifest": (manifest_file, (MANIFEST,)),
    "document": (document, (DOCUMENT,)),
    "post_round_yaml": (submission(YAML), (ROUND_YAML,)),
    "post_round_json": (submission(JSON), (json.dumps(ROUND).encode(),)),
    "post_login_urlencoded": (form(URLENCODED), (b"token=" + TOKEN + b"&next=%2Frounds",)),
    "post_login_multipart": (form(MULTIPART), (PART,)),
}


if __name__ == "__main__":
    print(*TARGETS)
