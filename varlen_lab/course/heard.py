"""What libraries say while they work: warnings, and the log lines of transformers.

    with listening() as said:
        model(**batch)
    len(said)

A leak is called silent in the lessons: this is how that is measured, and not only said.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class Kept(logging.Handler):
    """A log handler that keeps the words of warnings and of what is worse."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    """A list that holds, when the context ends, every warning of Python and of transformers' log that came in it.

    What transformers says once a process counts again, so that the second try is not silent because of the first.
    """
    said: list[str] = []
    log, kept = logging.getLogger("transformers"), Kept(said)
    level = log.level
    again = getattr(logging.Logger, "warning_once", None)
    if hasattr(again, "cache_clear"):
        again.cache_clear()  # type: ignore[union-attr]
    log.addHandler(kept)
    log.setLevel(min(level, logging.WARNING) if level else logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        log.removeHandler(kept)
        log.setLevel(level)
    said += [str(one.message) for one in caught]
