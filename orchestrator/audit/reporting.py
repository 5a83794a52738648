"""An audit as text, Markdown and JSON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from orchestrator.audit.finding import EXPLANATIONS
from orchestrator.audit.judging import Audit

MOST_CITED = 200  # characters of the records under a finding, in text


def as_text(audit: Audit) -> str:
    """For the terminal: every finding in a line, and beneath it the first of its records."""
    return "\n".join(_text_lines(audit))


def _text_lines(audit: Audit) -> Iterator[str]:
    yield _judged(audit)
    for check, findings in audit.findings.items():
        yield ""
        yield f"{check} ({len(findings)}): {EXPLANATIONS[check]}"
        for finding in findings:
            yield f"  - {finding.text}"
            cited = cite(finding.records)
            cut = cited if len(cited) <= MOST_CITED else cited[:MOST_CITED].rpartition(",")[0] + " ..."
            yield f"    {cut}"


def as_markdown(audit: Audit) -> str:
    """For a document: a section a check, every finding with all of its records."""
    return "\n".join(_markdown_lines(audit)) + "\n"


def _markdown_lines(audit: Audit) -> Iterator[str]:
    yield _judged(audit)
    for check, findings in audit.findings.items():
        yield ""
        yield f"## {str(check).replace('_', ' ').capitalize()}"
        yield ""
        yield EXPLANATIONS[check]
        yield ""
        if not findings:
            yield "Nothing was found."
        for finding in findings:
            yield f"- {escaped(finding.text)}"
            yield f"  <br><sub>{escaped(cite(finding.records))}</sub>"


def as_json(audit: Audit) -> dict[str, Any]:
    """For programs: everything, records uncut."""
    return {
        "judged": dict(audit.judged),
        "findings": [
            {
                "check": str(check),
                "text": finding.text,
                "figures": dict(finding.figures),
                "records": list(dict.fromkeys(finding.records)),
            }
            for check, findings in audit.findings.items()
            for finding in findings
        ],
    }


def escaped(text: str) -> str:
    """Text as it is in Markdown, whatever characters are in it."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)


def cite(records: Sequence[str]) -> str:
    """Records in few words: one file's lines, or jobs, together, with those in a row as a range."""
    places: dict[str, set[int]] = defaultdict(set)
    others: list[str] = []
    for record in dict.fromkeys(records):
        found = re.fullmatch(r"(.+:|job )(\d{1,15})", record)
        if found:
            places[found[1]].add(int(found[2]))
        else:
            others.append(record)
    return "; ".join([*(_place(name, sorted(numbers)) for name, numbers in places.items()), *others])


def _place(name: str, numbers: Sequence[int]) -> str:
    ranges = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        of_run = [number for _, number in run]
        ranges.append(str(of_run[0]) if len(of_run) == 1 else f"{of_run[0]}-{of_run[-1]}")
    many = name == "job " and len(numbers) > 1
    return f"{'jobs ' if many else name}{', '.join(ranges)}"


def _judged(audit: Audit) -> str:
    counts = audit.judged
    found = sum(map(len, audit.findings.values()))
    runs = f"{counts['runs']} runs ({counts['measured']} measured)"
    decisions = (
        f"{counts['decisions']} decisions ({counts['decisions_checked']} of them checked by the records)"
    )
    text = f"{found} findings on {runs} and {decisions} of {counts['rounds']} rounds"
    if counts["ledger_rows"]:
        text += f", and {counts['ledger_rows']} rows of a ledger"
        text += f" ({counts['ledger_rows_with_records']} of them with the records at hand)"
    return f"{text}."
