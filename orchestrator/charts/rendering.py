"""From charts to SVG for the page, and to PNG, SVG and HTML files that need nothing else.

Variant, task and round names and reasons come from users. They reach the output as text only: SVG is built by an XML
writer, and in HTML the chart is JSON in which no tag can end.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from orchestrator.charts.style import CONFIG, INK
from orchestrator.errors import BadInput, FsqError
from orchestrator.files import write_whole

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.VConcatChart

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)  # written without a prefix
# What neither XML nor a JSON string in UTF-8 can hold: control characters, lone surrogates, non-characters.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<script>{library}</script>
</head>
<body>
<div id="chart" role="img" aria-label="{description}"></div>
<script>vegaEmbed("#chart", {spec}, {options});</script>
</body>
</html>
"""


@contextmanager
def unchecked() -> Iterator[None]:
    """Charts are built without checking each part against Altair's schema, which is most of the time."""
    from altair.utils.schemapi import debug_mode  # slow to import

    with debug_mode(False):
        yield


def svg(chart: Chart) -> str:
    """An SVG element for a page: transparent, in the page's text colour, without ids, scripts and references."""
    root = _image(_spec(chart))
    root.remove(root[0])  # the background
    root.set("overflow", "visible")  # where the page's font is wider than the one it was laid out with
    for element in root.iter():
        _follow_page(element)
    return ElementTree.tostring(root, encoding="unicode")


def write(chart: Chart, path: Path) -> None:
    """Writes a titled chart as a .png (twice the size on screen), .svg or .html file; raises BadInput."""
    check(path)
    content = _FORMATS[path.suffix.lower()](_spec(chart))
    try:
        write_whole(path, content)
    except FsqError as error:
        raise BadInput(str(error)) from error


def check(path: Path) -> None:
    """Raises BadInput where no chart can be written."""
    if path.suffix.lower() not in _FORMATS:
        raise BadInput(
            f"{path}: a chart is written as .png, .svg or .html; give the file one of these endings"
        )
    if path.is_dir():
        raise BadInput(f"{path} cannot be written: it is a folder; name a file in it")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"{path} cannot be written: nothing can be put into {folder}; name another place")


def _spec(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite, complete with its style."""
    spec: dict[str, Any] = _printable(chart.to_dict())
    return spec | {"config": CONFIG}


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value


def _image(spec: dict[str, Any]) -> ElementTree.Element:
    """The drawn chart as one image, whose marks say what they are when pointed at."""
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    root = ElementTree.fromstring(drawn)  # noqa: S314 - drawn here, without a DTD
    for element in list(root.iter()):
        _name(element)
    root.set("role", "img")
    root.set("aria-label", spec["description"])
    return root


def _follow_page(element: ElementTree.Element) -> None:
    for attribute in ("fill", "stroke"):
        if element.get(attribute) == INK:
            element.set(attribute, "currentColor")


def _name(element: ElementTree.Element) -> None:
    """Makes a mark's description what a browser shows on pointing, and takes away roles: an image has none within."""
    label, kind = element.get("aria-label"), element.get("aria-roledescription")
    for attribute in ("role", "aria-label", "aria-roledescription", "aria-hidden"):
        element.attrib.pop(attribute, None)
    if label and kind in {"point", "text mark"}:
        ElementTree.SubElement(element, f"{{{SVG}}}title").text = label


def _svg_file(spec: dict[str, Any]) -> bytes:
    return ElementTree.tostring(_image(spec), encoding="unicode").encode()


def _png(spec: dict[str, Any]) -> bytes:
    import vl_convert

    png: bytes = vl_convert.vegalite_to_png(spec, scale=2, allowed_base_urls=[])
    return png


def _html(spec: dict[str, Any]) -> bytes:
    """A page with Vega within it; vl-convert's own would let a `</script>` in a name end its script."""
    import vl_convert

    page = _PAGE.format(
        title=escape("".join(spec["title"]["text"])),  # its lines
        description=escape(spec["description"]),
        library=vl_convert.javascript_bundle(),  # type: ignore[call-arg] # its stub lacks the default
        spec=json.dumps(spec).replace("<", "\\u003c"),
        options=json.dumps({"renderer": "svg", "actions": False}),
    )
    return page.encode()


_FORMATS: dict[str, Callable[[dict[str, Any]], bytes]] = {".png": _png, ".svg": _svg_file, ".html": _html}
