"""What `fsq check-docs` does: reads documents, and what there is of the rounds that they speak of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from orchestrator.client import Client
from orchestrator.errors import BadInput, BrokenRound, NotFound
from orchestrator.reports import gathering, manifest, references
from orchestrator.reports.gathering import RoundResults
from orchestrator.reports.references import Document, Finding, Known


def read(paths: Sequence[Path]) -> list[Document]:
    """The documents; raises NotFound and BadInput."""
    return [references.read(_content(path).decode("utf-8-sig", "replace"), str(path)) for path in paths]


def known(
    documents: Sequence[Document], path: Path | None, ask: Callable[[], AbstractContextManager[Client]]
) -> Known:
    """The results in the manifest at this path, or those of the rounds that the documents name, from a client."""
    if path is not None:
        return Known(manifest.read(_content(path), str(path)))
    found: list[RoundResults] = []
    unreadable: dict[str, str] = {}
    with ask() as client:
        for name in dict.fromkeys(one.round for document in documents for one in document.references):
            try:
                found += gathering.gather(client, [name])
            except NotFound:
                continue
            except BrokenRound as error:
                unreadable[name] = str(error)
    return Known(manifest.of(found), unreadable)


def findings(documents: Sequence[Document], known: Known) -> list[Finding]:
    return [finding for document in documents for finding in references.check(document, known)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
