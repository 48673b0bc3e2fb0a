"""Docstrings of what has no Python source: the builtins and the C modules of the standard library.

A C module must be imported to be read. The corpus therefore runs this file as a script in a fresh interpreter
(``python -I -S compiled.py``): nothing is imported into the reader's process, and what Jupyter or a site
package puts into ``builtins`` is not seen. Prints one JSON list a line: ``[module, qualname, kind, signature,
docstring]``.

Only the modules named here are imported. Left out on purpose: ``readline`` and ``_tkinter`` (they touch the
terminal and the screen), CPython's own test modules, and what most builds lack.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator

# fmt: off
MODULES = (
    "builtins", "array", "atexit", "binascii", "cmath", "errno", "faulthandler", "fcntl", "gc", "grp",
    "itertools", "marshal", "math", "mmap", "posix", "nt", "pwd", "pyexpat", "resource", "select", "sys",
    "syslog", "termios", "time", "unicodedata", "zlib", "_abc", "_ast", "_asyncio", "_bisect", "_blake2",
    "_bz2", "_codecs", "_collections", "_contextvars", "_csv", "_ctypes", "_curses", "_datetime", "_decimal",
    "_elementtree", "_functools", "_hashlib", "_heapq", "_imp", "_io", "_json", "_locale", "_lsprof", "_lzma",
    "_md5", "_multibytecodec", "_multiprocessing", "_opcode", "_operator", "_pickle", "_posixshmem",
    "_posixsubprocess", "_queue", "_random", "_sha1", "_sha256", "_sha3", "_sha512", "_signal", "_socket",
    "_sqlite3", "_sre", "_ssl", "_stat", "_statistics", "_string", "_struct", "_symtable", "_thread",
    "_tokenize", "_tracemalloc", "_typing", "_uuid", "_warnings", "_weakref", "_zoneinfo",
)
# fmt: on


def public_name(module: str) -> str:
    """The name a user imports: ``_datetime`` → ``datetime``, ``posix`` → ``os``; ``_thread`` has no other."""
    if module in ("posix", "nt"):
        return "os"
    stripped = module.lstrip("_")
    return stripped if stripped in sys.stdlib_module_names else module


def members(owner: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(qualname, object) of the classes, functions and descriptors in ``owner``, one class deep."""
    for name, value in sorted(vars(owner).items()):
        if inspect.isclass(value):
            # Classes in classes lead in circles (`object.__class__` is type); `__loader__` is import's own.
            if not prefix and not name.startswith("__"):
                yield name, value
                yield from members(value, f"{name}.")
        elif (
            inspect.isroutine(value)
            or inspect.isdatadescriptor(value)
            or isinstance(value, (classmethod, staticmethod))
        ):
            yield prefix + name, value


def signature(value: object) -> str:
    """``(x, /)`` where the C source states one, else ``""``; nobody types ``$self``."""
    text = getattr(value, "__text_signature__", None) or ""
    return " ".join(re.sub(r"^\(\$\w+(, /)?(, )?", "(", text).split())


def collect() -> Iterator[list[str]]:
    """``[module, qualname, kind, signature, docstring]`` of every documented object in MODULES."""
    for module_name in MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # another platform, or built without this library
            continue
        found = [("", module), *members(module)]
        for qualname, value in found:
            doc = getattr(value, "__doc__", None)
            if isinstance(doc, str):
                kind = "module" if not qualname else "class" if inspect.isclass(value) else "function"
                yield [public_name(module_name), qualname, kind, signature(value), inspect.cleandoc(doc)]


if __name__ == "__main__":
    for entry in collect():
        print(json.dumps(entry))
