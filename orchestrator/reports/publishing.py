"""What `fsq report` does: gathers rounds once, then writes whatever was asked for."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.client import Client
from orchestrator.files import write_whole
from orchestrator.reports import effects, gathering, tables

WIDTH = 160  # columns of a text that goes elsewhere than to a terminal


def publish(
    client: Client,
    names: Sequence[str],
    form: str,
    output: Path | None,
    *,
    charts: Path | None = None,
    log: Path | None = None,
    manifest: Path | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Gives the report, or the paths of the files written; raises FsqError, or what the client raises.

    warn: see `gathering.gather`.
    """
    from orchestrator.charts import rendering

    if charts is not None:
        rendering.check(charts)  # before anything is asked for
    report = effects.of_rounds(gathering.gather(client, names, warn))
    curves = gathering.curves(client, report.rounds) if charts is not None or form == "html" else []
    if form == "html":
        from orchestrator.reports.page import as_html

        text = as_html(report, curves)
    elif form == "text":
        text = tables.as_text(report, _width() if output is None else WIDTH)
    else:
        text = {"markdown": tables.as_markdown, "csv": tables.as_csv, "json": tables.as_json}[form](report)
    if output is None:
        yield text
    else:
        write_whole(output, text.encode())
        yield f"{output}\n"
    if log is not None:
        from orchestrator.reports import round_log

        round_log.update(log, report.rounds)
        yield f"{log}\n"
    if manifest is not None:
        from orchestrator.reports import manifest as manifests

        write_whole(manifest, manifests.to_json(manifests.of(report.rounds)).encode())
        yield f"{manifest}\n"
    if charts is not None:  # last: it raises where there is nothing to draw
        from orchestrator.reports import drawn

        with rendering.unchecked():
            rendering.write(drawn.chart(report, curves), charts)
        yield f"{charts}\n"


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
