"""Folding: a line that is too long for a console becomes several, at words; styles of its parts stay with them."""

from __future__ import annotations

import re

Cell = str | tuple[str, str]  # text, or text and rich's name of a style
Line = list[tuple[str, str]]  # the same, cell for cell


def folded(line: str, columns: int, hang: int = 0, whole_words: bool = False) -> list[str]:
    """``line`` in pieces of at most ``columns``, broken between words; what follows is indented ``hang`` more.

    ``whole_words``: a longer word stays whole, for a terminal breaks it and copies it as one.

    >>> folded("  three short words", 14, hang=2)
    ['  three short', '    words']
    """
    if len(line) <= columns and line.isascii():  # and nothing is to be imported
        return [line]
    from rich.cells import cell_len

    if cell_len(line) <= columns:
        return [line]
    indent = len(line) - len(line.lstrip(" "))
    indent = min(indent, columns // 2)
    hang = min(hang, columns // 2 - indent)  # a word that must be broken has room
    pieces, piece = [], " " * indent
    for word, gap in re.findall(r"(\S+)(\s*)", line):
        while cell_len(piece + word) > columns:
            if piece.strip():
                pieces.append(piece.rstrip())
                piece = " " * (indent + hang)
                continue
            if cell_len(word) <= columns:  # whole, with less before it
                piece = " " * (columns - cell_len(word))
                break
            if whole_words:
                break
            room = columns - len(piece)
            cut = next(n for n in range(len(word), 0, -1) if n == 1 or cell_len(word[:n]) <= room)
            pieces.append(piece + word[:cut])
            word, piece = word[cut:], " " * (indent + hang)
        piece += word + gap
    return [*pieces, piece.rstrip()] if piece.strip() else pieces or [""]


def folded_spans(spans: Line, columns: int, hang: int = 0, whole_words: bool = False) -> list[Line]:
    """The same of a line of texts with styles: each piece keeps its own."""
    spans = [(text.expandtabs(), style) for text, style in spans]
    line = "".join(text for text, _ in spans)
    pieces = folded(line, columns, hang, whole_words)
    if pieces == [line]:
        return [spans]
    lines, start = [], 0
    for piece in pieces:
        words = piece.strip()
        start = line.index(words, start)
        lines.append([(piece[: piece.index(words)], ""), *sliced(spans, start, start + len(words))])
        start += len(words)
    return lines


def sliced(spans: Line, start: int, stop: int) -> Line:
    """The characters from ``start`` to ``stop`` of texts with styles."""
    found = []
    for text, style in spans:
        if part := text[max(0, start) : max(0, stop)]:
            found.append((part, style))
        start, stop = start - len(text), stop - len(text)
    return found
