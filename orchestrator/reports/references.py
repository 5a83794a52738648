"""Holds Markdown against the records: links that name a result, and the numbers that they stand on.

`[+2.50 pp](fsq:round/task/stage/variant/seed0#d_acc)` says that this figure of this result is +2.50 pp. The number
may be rounded: it agrees if the figure lies within half a unit of its last digit, or below it after a `<`. With `%`,
`pp` or `percentage point` after it, it is compared with a hundred times the figure. Without `#figure` the result only
has to exist. File names of records and summaries (`_round_records.jsonl`, `_summary_round.txt`) have to be of rounds
that exist. A run that is named without a link, round/task/stage/variant/seed0, has to exist, too, and percentages and
percentage points beside it in the sentence, if they are not in links, have to be figures of it. Code in fences, and
links right within backticks, are left out.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from itertools import accumulate, pairwise
from math import isfinite

from orchestrator.reports.manifest import Figure, Manifest, Result

_TARGET = re.compile(r"\]\(fsq:(?:(?P<id>[^()\s#]{1,600})(?:#(?P<figure>\w{1,60}))?\))?")
_LIKE_A_LINK = re.compile(r"(?:\]\(\s*<?|\]:\s*<?|<)fsq:", re.IGNORECASE)
_LONGEST = 300  # characters of a link's text
_FILE = re.compile(
    r"(?<![\w.=+-])_(?:summary_(?P<summary>[A-Za-z0-9][\w.=+-]{0,99}?)\.txt"
    r"|(?P<records>[A-Za-z0-9][\w.=+-]{0,99}?)_records\.(?:jsonl|csv))(?![\w=+-])",
    re.ASCII,
)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_EMPHASIS = re.compile(r"(\*\*|\*|`)([^*`]{1,120})\1")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?", re.ASCII)
_HUNDREDTHS = re.compile(r"\s*(?:\\?%|pp\b|per\s?cent)", re.IGNORECASE)
_LINK = re.compile(r"\[[^\]\[]{0,300}\]\(fsq:[^()]{0,700}\)")
_RUN = re.compile(r"(?<![\w/.:#=+-])(?:[A-Za-z0-9][\w.=+-]{0,99}/){4}seed\d{1,10}(?![\w/=+-])", re.ASCII)
_PERCENT = re.compile(
    rf"(?<![\w.,/])(?:{_NUMBER.pattern})(?={_HUNDREDTHS.pattern})", re.ASCII | re.IGNORECASE
)
_OF_NO_RUN = re.compile(  # 95 % interval
    r"\s*(?:\\?%|per\s?cent)\s*(?:t )?(?:interval|confidence|bound|level|CI\b|power|fewer|more|less)",
    re.IGNORECASE,
)
_ABBREVIATED = "".join(rf"(?<!\b{word})" for word in ("vs", "cf", r"e\.g", r"i\.e"))
_MAY_END = "".join(rf"(?<!\b{word})" for word in ("etc", "resp", "approx", "ca"))  # before a capital letter
_SENTENCE_END = re.compile(
    rf"[!?](?=\s)|{_ABBREVIATED}(?:{_MAY_END}\.(?=\s)|\.(?=\s+[A-Z]))"
    r"|\n\s*\n|\n(?=\s*(?:[-*+]\s|[|#>]|\d+\.\s))"
)
_SPACES = re.compile("[\u00a0\u2007\u2009\u202f]|&(?:nbsp|thinsp|#160|#xa0);", re.IGNORECASE)
_MARKS = re.compile(r"[*`$]|(?<![^\W_])_+(?=\w)|(?<=[^\W_])_+(?!\w)")  # emphasis, and formulas
_SIGNS = str.maketrans("\u2212\u2013", "--")  # the typographic minus, and the dash that stands for it
MOST_NAMES = 2000  # that a suggestion is looked for among


@dataclass(frozen=True)
class Finding:
    """Something in a document that the records do not say."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Reference:
    """A place in a document that speaks of a result, or of a round's file."""

    line: int
    round: str
    id: str | None = None  # None: a file of the round
    figure: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Sentence:
    """Runs that a sentence names, and the numbers in it that are of no link."""

    ids: tuple[str, ...]
    numbers: tuple[tuple[int, str], ...]  # with their lines


@dataclass(frozen=True)
class Document:
    """What a Markdown file refers to."""

    name: str
    references: tuple[Reference, ...]
    sentences: tuple[Sentence, ...]
    broken: tuple[int, ...]  # lines of links that are none


@dataclass(frozen=True)
class Known:
    """The results that there are."""

    manifest: Manifest
    unreadable: Mapping[str, str] = field(default_factory=dict)  # rounds that cannot be told of here, and why

    @cached_property
    def rounds(self) -> frozenset[str]:
        return frozenset(one.round for one in self.manifest.rounds)

    @cached_property
    def results(self) -> Mapping[str, Result]:
        return {result.id: result for result in self.manifest.results}


def read(text: str, name: str) -> Document:
    """Whatever in a Markdown text is a reference."""
    visible = _blanked(_SPACES, _without_code(text))
    starts = [0, *accumulate(len(line) + 1 for line in visible.split("\n"))]

    def line_of(position: int) -> int:
        return bisect_right(starts, position)

    references, broken = [], []
    for found in _TARGET.finditer(visible):
        start = visible.rfind("[", max(0, found.start() - _LONGEST), found.start())
        text, line = visible[start + 1 : found.start()], line_of(max(start, 0))
        if visible[start - 1 : start] == "`" == visible[found.end() : found.end() + 1]:
            continue
        if start < 0 or "]" in text or found["id"] is None:
            broken.append(line_of(found.start()))
        else:
            name_of_round = found["id"].partition("/")[0]
            references.append(Reference(line, name_of_round, found["id"], found["figure"], text))
    broken += [line_of(start) for start in _other_links(visible)]
    references += [
        Reference(line_of(found.start()), found["summary"] or found["records"])
        for found in _FILE.finditer(visible)
    ]
    references += [
        Reference(line_of(found.start()), found[0].partition("/")[0], found[0])
        for found in _RUN.finditer(_blanked(_MARKS, visible))
    ]
    in_order = tuple(sorted(references, key=lambda one: one.line))
    return Document(name, in_order, tuple(_sentences(visible, line_of)), tuple(broken))


def _other_links(visible: str) -> Iterator[int]:
    """Where something is linked in another way than is understood, not as code."""
    understood = {found.start() for found in _TARGET.finditer(visible)}
    for found in _LIKE_A_LINK.finditer(visible):
        line = visible.rfind("\n", 0, found.start()) + 1
        if found.start() not in understood and visible.count("`", line, found.start()) % 2 == 0:
            yield found.start()


def _blanked(what: re.Pattern[str], text: str) -> str:
    """The text with spaces in place of what matches; every other character keeps its place."""
    return what.sub(lambda found: " " * len(found[0]), text)


def _sentences(visible: str, line_of: Callable[[int], int]) -> Iterator[Sentence]:
    """The sentences that name runs."""
    whole = _blanked(_LINK, visible).translate(_SIGNS)
    ends = [0, *(found.end() for found in _SENTENCE_END.finditer(whole)), len(whole)]
    plain = _blanked(_MARKS, whole)
    for start, end in pairwise(ends):
        ids = tuple(found[0] for found in _RUN.finditer(plain, start, end))
        if ids:
            numbers = tuple(
                (line_of(found.start()), found[0])
                for found in _PERCENT.finditer(plain, start, end)
                if not _OF_NO_RUN.match(plain, found.end())
            )
            yield Sentence(ids, numbers)


def check(document: Document, known: Known) -> list[Finding]:
    """Everything that the records do not bear out, in the order of the lines."""
    found = [
        (line, "this link names no result; write fsq:round/task/stage/variant/seed0#figure")
        for line in document.broken
    ]
    for reference in document.references:
        found += [(reference.line, message) for message in _problems(reference, known)]
    for sentence in document.sentences:
        found += _unknown_numbers(sentence, known)
    return [
        Finding(document.name, line, message) for line, message in sorted(found, key=lambda each: each[0])
    ]


def _problems(reference: Reference, known: Known) -> Iterator[str]:
    if (why := known.unreadable.get(reference.round)) is not None:
        yield f"cannot be checked: {_shown(why)}"
        return
    if reference.round not in known.rounds:
        yield f"there is no round {_shown(reference.round)}{_nearest(reference.round, known.rounds)}"
        return
    if reference.id is None:
        return
    result = known.results.get(reference.id)
    if result is None:
        mine = [name for name in known.results if name.startswith(f"{reference.round}/")]
        if reference.id == reference.round:
            yield f"{_shown(reference.id)} is a round; a link names a run of it, or a mean of runs"
            return
        yield f"there is no result {_shown(reference.id)}{_nearest(reference.id, mine)}"
    elif reference.figure is not None:
        if reference.figure in result.figures:
            problem = _difference(reference, result.figures[reference.figure])
            yield from [problem] if problem else []
        else:
            yield (
                f"{_shown(reference.id)} has no figure {_shown(reference.figure)}"
                f"{_nearest(reference.figure, list(result.figures))}"
            )


def _unknown_numbers(sentence: Sentence, known: Known) -> Iterator[tuple[int, str]]:
    """The numbers of a sentence that are no figure of any run that it names, with their lines."""
    results = [known.results[id_] for id_ in sentence.ids if id_ in known.results]
    figures = [each for result in results for each in result.figures.values() if not isinstance(each, str)]
    for line, number in sentence.numbers:
        shown = Decimal(number)
        if results and not any(agrees(shown, 100 * figure) for figure in figures):
            runs = " and ".join(_shown(result.id) for result in results)
            yield line, f"says {number} (in hundredths), which is no figure of {runs}"


def _difference(reference: Reference, figure: Figure) -> str | None:
    """What is wrong with what a document says of a figure; None where they agree."""
    text = _plain(reference.text)
    name = f"{_shown(reference.id or '')}#{reference.figure}"
    if isinstance(figure, str):
        return None if text == figure else f"says {_shown(text)}, but {name} is {_shown(figure)}"
    numbers = list(_NUMBER.finditer(text))
    if len(numbers) != 1:
        count = "no number" if not numbers else f"{len(numbers)} numbers"
        return f"the text {_shown(text)} of a link to {name} has {count}; link the one number that it is of"
    shown, after = Decimal(numbers[0][0]), text[numbers[0].end() :]
    factor = 100 if _HUNDREDTHS.match(after) else 1
    is_bound = text[: numbers[0].start()].rstrip().endswith("<")
    if figure * factor < float(shown) if is_bound else agrees(shown, figure * factor):
        return None
    unit = " (in hundredths)" if factor == 100 else ""
    return f"says {_shown(text)}, but {name} is {figure * factor:.6g}{unit}"


def agrees(shown: Decimal, figure: float) -> bool:
    """Whether a number as it is written is this figure, rounded to the digits that are shown."""
    exponent = shown.as_tuple().exponent
    assert isinstance(exponent, int)  # noqa: S101  (digits only)
    half = Decimal(5).scaleb(exponent - 1)
    # exactly, since a difference of floats would err by more than 1e-6 of a half where many digits are shown
    return isfinite(figure) and abs(shown - Decimal(figure)) <= half * (1 + Decimal("1e-6"))


def _plain(text: str) -> str:
    """The text of a link without emphasis, with ASCII signs."""
    bare = _EMPHASIS.sub(r"\2", " ".join(text.split())).strip("*_` ").translate(_SIGNS)
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare)


def _without_code(text: str) -> str:
    """The text with fenced code blanked; every character keeps its place."""
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        closes = bool(fence and mark and mark[1].startswith(fence) and not line[mark.end() :].strip())
        is_code = bool(fence or mark)
        lines.append(" " * len(line) if is_code else line)
        if closes:
            fence = ""
        elif mark and not fence:
            fence = mark[1]
    return "\n".join(lines)


def _shown(text: str) -> str:
    """Foreign text as part of a message."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text[:120])


def _nearest(name: str, names: Sequence[str] | frozenset[str]) -> str:
    near = get_close_matches(name[:200], list(names)[:MOST_NAMES], n=1)
    return f"; the nearest is {near[0]}" if near else ""
