"""Builds the examples of any task: selects, applies limits, adds notes, counts, reports.

Knows no task kind. Everything is decided by config, rows and tokenizer, nothing by machine or time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tasks import assembly, cache, shortfall
from tasks.candidate import Candidate
from tasks.config import TaskConfig
from tasks.encoding import Draft, Encoder
from tasks.errors import DataUnavailable, RowError, blaming_kind, shown
from tasks.notes import NotePool
from tasks.registry import get_kind, parse_config
from tasks.report import Built
from tasks.rows import Columns, Row, bind
from tasks.selection import ORDER_SEEDS, Chosen, Used, select, shuffled
from tasks.sources import Source, open_source
from tasks.splits import Split
from tasks.task import Task
from tasks.tokens import Tokenizer

PATIENCE = 1000  # rows in a row that a generator may give in vain


def build(
    config: TaskConfig | Mapping[str, Any], tokenizer: Tokenizer, *, cache_dir: Path | None = None
) -> Built:
    """Training examples, validation examples and the report on them.

    Equal config, data and tokenizer give equal examples, in any process and on any machine. With
    `cache_dir` a second build reads the stored examples and does not use the tokenizer.
    Raises DataError, BuildError, DataUnavailable, UnknownTaskKind, BrokenTaskKind; pydantic's
    ValidationError where `config` is a mapping with wrong options.
    """
    if not isinstance(config, TaskConfig):
        config = parse_config(config)
    kind = get_kind(config.kind)
    with blaming_kind(config.kind, "to take its options"):
        task = kind(config)
        if not isinstance(getattr(task, "config", None), TaskConfig):
            raise TypeError("__init__ has to hand them on: super().__init__(config)")
    source = open_source(config.data) if config.data is not None else None
    if cache_dir is None:
        return _build(task, source, tokenizer)
    path = cache_dir / cache.file_name(config, task.code, _fingerprint(source), tokenizer)
    with _storage(path):
        stored = cache.load(path)
    if stored is None:
        stored = _build(task, source, tokenizer)
        with _storage(path):
            cache.save(path, *stored)
    return stored


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataUnavailable(f"{path}: built examples cannot be kept: {error.strerror}") from error


def _fingerprint(source: Source | None) -> str:
    return "generated" if source is None else source.fingerprint


def _build(task: Task[Any], source: Source | None, tokenizer: Tokenizer) -> Built:
    rows = None if source is None else _divide(task, source)
    config, encoder, used = task.config, Encoder(task.config, tokenizer), Used()
    seen = config.val_offset + config.val_selected
    val, train = Chosen(Split.VAL, config.val, to_pass=seen), Chosen(Split.TRAIN, config.train)
    in_order = {split: _in_order(task, split, rows) for split in (Split.VAL, Split.TRAIN)}

    def choose(chosen: Chosen, wanted: int) -> None:
        """The next rows that pass everything."""

        def draft(row: Row) -> Draft:
            candidate = _candidate(task, row)
            used.check(candidate, chosen.split)
            return encoder.draft(candidate)

        patience = PATIENCE if rows is None else None
        select(chosen, in_order[chosen.split], wanted, draft=draft, used=used, patience=patience)

    # Validation first: a row that both could use is not taken from it by a larger `train`. For a confirm stage only
    # what the selection chose first, so that it trains on the selection's examples.
    first = config.val_offset or config.val_selected or config.val
    choose(val, first)
    choose(train, config.train)
    choose(val, seen + config.val - first)
    if not (train.complete and val.complete):
        raise shortfall.too_few(config.kind, [train, val], task.advice, generated=rows is None)
    notes: Iterator[str] = iter(())
    if encoder.notes is not None and rows is not None:
        notes = islice(_notes(task, rows, used), encoder.notes.pool_size)
    pool = NotePool(notes, tokenizer)
    if not pool and any(draft.room for draft in train.drafts + val.drafts):
        raise shortfall.no_notes(task.config.kind)
    finished = [assembly.finish(chosen, pool, tokenizer) for chosen in (train, val)]
    report = assembly.report(
        task.config.kind,
        *finished,
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        source=_fingerprint(source),
    )
    return finished[0].examples, finished[1].examples, report


def _divide(task: Task[Any], source: Source) -> dict[Split, list[Row]]:
    """All rows by split, in the order of the source."""
    rows: dict[Split, list[Row]] = {split: [] for split in Split}
    with blaming_kind(task.config.kind, "to name its columns"):
        columns = task.columns
        if not isinstance(columns, Columns):
            raise TypeError(f"expected Columns, not {columns!r}")
    for table in source.read():
        for row in bind(columns, table.rows, table.name):
            rows[table.split or _split_of(task, row)].append(row)
    return rows


def _in_order(task: Task[Any], split: Split, rows: Mapping[Split, Sequence[Row]] | None) -> Iterator[Row]:
    """The rows of a split, shuffled; without `rows`, the task makes its own."""
    return _generated(task, split) if rows is None else iter(shuffled(rows[split], ORDER_SEEDS[split]))


def _generated(task: Task[Any], split: Split) -> Iterator[Row]:
    with blaming_kind(task.config.kind, f"to generate rows for {split}"):
        for row in task.generate(split):
            if not isinstance(row, Row):
                raise TypeError(f"expected a Row, not {row!r}")
            yield row


def _split_of(task: Task[Any], row: Row) -> Split:
    with blaming_kind(task.config.kind, f"to place the row {shown(row.key)!r}"):
        return Split(task.split_of(row))


def _candidate(task: Task[Any], row: Row) -> Candidate:
    """The task's candidate; RowError where it holds a lone surrogate, which nothing can encode."""
    with blaming_kind(task.config.kind, f"on the row {shown(row.key)!r}"):
        candidate = task.candidate(row)
        if not isinstance(candidate, Candidate):
            raise TypeError(f"expected a Candidate, not {candidate!r}")
    try:
        candidate.all_text.encode()
    except UnicodeEncodeError:
        raise RowError("not_unicode") from None
    return candidate


def _notes(task: Task[Any], rows: Mapping[Split, Sequence[Row]], used: Used) -> Iterator[str]:
    """Notes of the rows that are no examples, in seeded order, no content twice."""
    for row in shuffled(chain.from_iterable(rows[split] for split in Split), "notes"):
        try:
            candidate = _candidate(task, row)
            used.check(candidate, Split.REST)
        except RowError:
            continue
        if candidate.note is not None:
            used.add(candidate, Split.REST)
            yield candidate.note
