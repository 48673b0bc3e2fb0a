"""What a program may not lean on if it is to run on Windows too, found in its source; the simulation takes it away.

``python tests/windows_lacks.py COMMAND ...`` runs ``varlen-lab COMMAND ...`` in a Linux Python without it.
"""

from __future__ import annotations

import ast
import builtins
import io
import multiprocessing
import os
import stat
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "readline", "curses"}
NAMES = {
    "os": {
        *(
            "fork",
            "forkpty",
            "getuid",
            "geteuid",
            "getgid",
            "getegid",
            "setuid",
            "setsid",
            "setpgid",
            "getpgid",
            "killpg",
        ),
        *("sched_getaffinity", "sched_setaffinity", "sysconf", "statvfs", "uname", "mkfifo", "chown", "getloadavg"),
        *(
            "pread",
            "pwrite",
            "nice",
            "wait",
            "waitstatus_to_exitcode",
            "sendfile",
            "posix_fadvise",
            "fdatasync",
            "chroot",
        ),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_SYNC"),
    },
    "signal": {
        *("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGSTOP", "SIGCONT", "SIGPIPE"),
        *("alarm", "pause", "setitimer", "pthread_sigmask", "pthread_kill", "sigwait"),
    },
    "time": {"tzset"},
    "socket": {"AF_UNIX"},
}
KEYWORDS = {"preexec_fn", "start_new_session", "process_group", "pass_fds"}  # of subprocess
LINKS = {"symlink", "symlink_to"}  # need a privilege there
OPENERS = {"open", "fdopen", "read_text", "write_text"}
OTHERS = {"os", "distribution", "mask", "Image", "tarfile", "zipfile", "gzip"}  # whose open() or read_text() is another
PROCESSES = {"run", "Popen", "check_output", "check_call"}
ONE_PLACE = "files/windows.py"  # that moves files: it waits for who has them open


# ------------------------------------------------------------------------------------------------- in the source


def leaning_on_unix(source: str, file: str = "a.py") -> Iterator[str]:
    """``file:line: what`` for everything in a source that Windows lacks or does otherwise, and that nothing guards."""
    tree = ast.parse(source)
    above = {below: node for node in ast.walk(tree) for below in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if (what := lacking(node, file)) and not guarded(node, above, what):
            yield f"{file}:{node.lineno}: {what}"  # type: ignore[attr-defined]


def lacking(node: ast.AST, file: str) -> str | None:
    """What of one node Windows lacks or does otherwise."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        return next((f"import {name}" for name in names if name.split(".")[0] in MODULES), None)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.attr in NAMES.get(node.value.id, ()):
            return f"{node.value.id}.{node.attr}"
        if node.value.id == "os" and node.attr in ("rename", "replace", "renames") and file != ONE_PLACE:
            return f"os.{node.attr} outside of {ONE_PLACE}"
    return lacking_in_call(node) if isinstance(node, ast.Call) else None


def lacking_in_call(node: ast.Call) -> str | None:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = getattr(getattr(node.func, "value", None), "id", "")
    given = {word.arg: word.value for word in node.keywords}
    if found := KEYWORDS & {str(name) for name in given}:
        return f"{called}({found.pop()}=)"
    if called in LINKS:
        return f"{called}()"
    if called in PROCESSES and owner == "subprocess" and truth(given.get("text"), given.get("universal_newlines")):
        return None if "encoding" in given else f"subprocess.{called}(text=True) without encoding="
    bare = isinstance(node.func, ast.Name)
    if called not in OPENERS or (bare and called != "open") or owner in OTHERS or None in given:
        return None  # **text, as written_whole says it
    first = node.args[1 if bare or called == "fdopen" else 0 :][:1]
    mode = given.get("mode") or (first[0] if first and called in ("open", "fdopen") else None)
    letters = mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else "r"
    if "b" in letters:
        return None
    if "encoding" not in given:
        return f"{called}() without encoding="
    writes = called == "write_text" or set(letters) & set("wax+")
    return f"{called}() that writes without newline=" if writes and "newline" not in given else None


def truth(*values: ast.expr | None) -> bool:
    return any(isinstance(value, ast.Constant) and bool(value.value) for value in values)


def guarded(node: ast.AST, above: dict[ast.AST, ast.AST], what: str) -> bool:
    """Whether it stands where Windows does not come, or its absence is caught."""
    while node in above:
        child, node = node, above[node]
        if isinstance(node, ast.If | ast.IfExp) and asks_for_system(node.test) and child is not node.test:
            return True
        if isinstance(node, ast.Try) and child in node.body and any(catches(one, what) for one in node.handlers):
            return True
    return False


def asks_for_system(test: ast.expr) -> bool:
    words = ast.unparse(test)
    return any(word in words for word in ("hasattr(", "WINDOWS", "sys.platform", "os.name", "platform.system()"))


def catches(handler: ast.ExceptHandler, what: str) -> bool:
    needed = "ImportError" if what.startswith("import ") else "OSError" if "symlink" in what else "AttributeError"
    return needed in (ast.unparse(handler.type) if handler.type else needed)


# ------------------------------------------------------------------------------------------------- in a Python


class Lacking(types.ModuleType):
    """A module without some of its names."""

    def __init__(self, whole: types.ModuleType, names: set[str]) -> None:
        super().__init__(whole.__name__)
        self.__dict__.update(whole=whole, names=names)

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__["names"]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self.__dict__["whole"], name)


def locks(fcntl: Any) -> types.ModuleType:
    """What Windows has for locks, as far as the library asks for it."""

    def locking(handle: int, mode: int, count: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    module = types.ModuleType("msvcrt")
    module.__dict__.update(LK_NBLCK=2, locking=locking)
    return module


def take_away() -> None:
    """Leave the library without what Windows lacks; for a process of its own. Other packages know where they run."""
    usual = builtins.__import__
    less = {name: Lacking(usual(name), names) for name, names in NAMES.items()} | {"msvcrt": locks(usual("fcntl"))}

    def import_(name: str, globals: Any = None, *more: Any, **named: Any) -> Any:
        if not str((globals or {}).get("__name__")).startswith("varlen_lab"):
            return usual(name, globals, *more, **named)
        if name.split(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
        return less.get(name) or usual(name, globals, *more, **named)

    builtins.__import__ = import_
    multiprocessing.set_start_method("spawn")
    files_as_on_windows()
    import varlen_lab.files.windows as windows

    windows.WINDOWS = True


def files_as_on_windows() -> None:
    """No folder can be opened, an fsync needs a file open for writing, the first move of each file is refused, text
    gets its line ends, and a name that has a reserved character, or a file that is open, cannot be had."""
    usual = {"open": os.open, "fsync": os.fsync, "replace": os.replace, "io": io.open, "unlink": os.unlink}
    refused: set[str] = set()
    reading: set[int] = set()

    def open_number(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        number = usual["open"](path, flags, *more, **named)
        (reading.discard if flags & (os.O_WRONLY | os.O_RDWR) else reading.add)(number)
        return number

    def fsync(number: int) -> None:
        if number in reading and stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(9, "Bad file descriptor")
        usual["fsync"](number)

    def in_use(path: Any) -> bool:
        """Whether this process maps the file, or one in the folder, or has it open."""
        real = os.path.realpath(path)
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        handles = [os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()]
        names = [line.split(maxsplit=5)[5] for line in mapped.splitlines() if line.count(" /")] + handles
        return any(name == real or name.startswith(real + os.sep) for name in names)

    def replace(source: Any, target: Any, **named: Any) -> None:
        if str(target) not in refused:
            refused.add(str(target))
            raise PermissionError(13, "Access is denied", str(target))
        if in_use(source) or (os.path.exists(target) and in_use(target)):
            raise PermissionError(32, "The process cannot access the file", str(source), 32, str(target))
        usual["replace"](source, target, **named)

    def unlink(path: Any, **named: Any) -> None:
        # tempfile has a way of its own there to delete what is still open
        if sys._getframe(1).f_globals["__name__"] != "tempfile" and "dir_fd" not in named and in_use(path):
            IN_USE.append(str(path))
            raise PermissionError(32, "The process cannot access the file", str(path))
        usual["unlink"](path, **named)

    def open_text(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
                  newline: str | None = None, *more: Any, **named: Any) -> Any:  # fmt: skip
        if newline is None and "b" not in mode and set(mode) & set("wax+"):
            newline = "\r\n"
        return usual["io"](file, mode, buffering, encoding, errors, newline, *more, **named)

    os.open, os.fsync, os.replace = open_number, fsync, replace  # type: ignore[assignment]
    os.unlink = os.remove = unlink  # type: ignore[assignment]
    io.open = builtins.open = open_text  # type: ignore[assignment]


IN_USE: list[str] = []  # files that could not be deleted

if __name__ == "__main__":
    take_away()
    from varlen_lab.cli import main

    code = main()
    if IN_USE:
        print("IN USE", *IN_USE, file=sys.stderr)
    sys.exit(code)
