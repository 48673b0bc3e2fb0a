"""Pictures as ``img`` elements that hold them: checked by their first bytes, SVG without anything that could act."""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from html import escape
from pathlib import Path
from typing import Any

MAGIC = {  # first bytes -> type
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
ALLOWED = tomllib.loads((Path(__file__).parent / "allowed.toml").read_text(encoding="utf-8"))["svg"]
SVG_TAGS, SVG_ATTRIBUTES = (ALLOWED[what].split() for what in ("tags", "attributes"))
CASED = {name.lower(): name for name in (*SVG_TAGS, *SVG_ATTRIBUTES)}
LARGEST = 20_000_000  # bytes of a file that a page takes in


def picture(data: bytes, alt: str, width: Any = None) -> str:
    """An ``img`` of the picture ``data``, or '' when it is none that a page can show. ``width``: CSS pixels."""
    address = data_uri(data)
    if not address:
        return ""
    size = f' width="{width}"' if re.fullmatch(r"[1-9]\d{0,4}", str(width)) else ""
    return f'<img src="{address}" alt="{escape(alt)}"{size}>'


def uri_picture(address: str, alt: str, width: Any = None) -> str:
    """As ``picture``, from a data URI; its own word about its type counts for nothing."""
    data = from_base64(address.partition(",")[2])
    return picture(data, alt, width) if data else ""


def file_picture(folder: Path, name: str, alt: str, width: Any = None) -> str:
    """As ``picture``, from a file in ``folder`` or below; a notebook takes nothing else of this machine with it."""
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()  # no device, which has no end
        return picture(path.read_bytes(), alt, width) if inside and path.stat().st_size <= LARGEST else ""
    except (OSError, ValueError, RuntimeError):  # not there, no name that a file can have, or a link to itself
        return ""


def from_base64(text: Any) -> bytes:
    """The bytes that a notebook keeps as base64; b'' when it is none."""
    try:
        return base64.b64decode("".join(str(text).split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def data_uri(data: bytes) -> str:
    """The picture as an address that holds it, or '' when it is none."""
    mime = next((mime for first, mime in MAGIC.items() if data.startswith(first)), "")
    if not mime and (drawing := safe_svg(data)):
        mime, data = "image/svg+xml", drawing
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}" if mime else ""


def safe_svg(data: bytes) -> bytes:
    """The drawing with the elements of a list alone, without handlers and addresses; b'' when it is none."""
    from xml.etree import ElementTree

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    text = data.decode("utf-8", "replace").strip()
    if "<svg" not in text[:2000]:
        return b""
    text = re.sub(r"^<\?xml[^>]*>\s*|<!DOCTYPE[^>\[]*>\s*", "", text)  # matplotlib names a DTD, which nobody reads
    if "xmlns=" not in text[: text.find(">", text.find("<svg"))]:
        text = text.replace("<svg", f'<svg xmlns="{SVG}"', 1)
    try:
        root = fromstring(text)
    except (ElementTree.ParseError, DefusedXmlException, ValueError):
        return b""
    if root.tag != f"{{{SVG}}}svg":
        return b""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    try:
        prune(root)
        return ElementTree.tostring(root, encoding="utf-8")
    except RecursionError:  # no drawing is nested so deep
        return b""


def prune(element: Any) -> None:
    """Remove what could act or fetch from ``element`` and below."""
    for name, value in list(element.attrib.items()):
        plain = name.rpartition("}")[2].lower()
        del element.attrib[name]
        foreign = name.startswith("{") and name != XLINK
        if not (foreign or plain.startswith("on") or fetches(value, address=plain == "href")):
            element.attrib[CASED.get(name, name)] = value
    if element.tag == f"{{{SVG}}}style" and fetches(element.text or "", False):
        element.text = ""
    for child in list(element):
        name = CASED.get(child.tag.removeprefix(f"{{{SVG}}}").lower()) if isinstance(child.tag, str) else None
        if name not in SVG_TAGS:
            element.remove(child)
        else:
            child.tag = f"{{{SVG}}}{name}"
            prune(child)


def fetches(value: str, address: bool) -> bool:
    """Does a value lead out of the drawing? ``address``: it is one by itself, not a style that may hold some."""
    if address:
        return not re.match(r"#|data:image/(png|jpeg|gif|webp);base64,", value.strip(), re.I)
    return bool(re.search(r"url\(\s*['\"]?\s*(?!#)|@import|\\|javascript:|expression\(", value, re.I))
