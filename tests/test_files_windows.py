"""Windows, on Linux: what the library leans on, read in its source; what its files do where Windows does otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from expect import refused
from windows_lacks import leaning_on_unix

import varlen_lab
import varlen_lab.files.windows as windows
from varlen_lab.files.writing import cache_dir, folder_written_whole, remove, written_whole
from varlen_lab.machine import environment, gpu, ranks

LIBRARY = Path(varlen_lab.__file__).parent


def test_nothing_in_the_library_leans_on_unix() -> None:
    found = [
        said
        for path in sorted(LIBRARY.rglob("*.py"))
        for said in leaning_on_unix(path.read_text(encoding="utf-8"), path.relative_to(LIBRARY).as_posix())
    ]
    assert found == []


PLANTED = [
    "import fcntl",
    "from resource import getrusage",
    "def f():\n    import pwd",
    "os.fork()",
    "os.kill(pid, signal.SIGKILL)",
    "cores = len(os.sched_getaffinity(0))",
    "signal.signal(signal.SIGHUP, stop)",
    "os.killpg(group, 15)",
    "subprocess.Popen(words, start_new_session=True)",
    "subprocess.run(words, preexec_fn=quiet)",
    "subprocess.run(words, capture_output=True, text=True)",
    "os.rename(a, b)",
    "os.replace(a, b)",
    "open(path)",
    "open(path, 'w', encoding='utf-8')",
    "path.open()",
    "path.open('a', encoding='utf-8')",
    "path.read_text()",
    "path.write_text(text)",
    "path.write_text(text, encoding='utf-8')",
    "link.symlink_to(path)",
    "try:\n    import fcntl\nexcept AttributeError:\n    pass",
    "if hasattr(os, 'fork'):\n    pass\nelse:\n    pass\nos.fork()",
]
HARMLESS = [
    "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None",
    "if hasattr(os, 'sched_getaffinity'):\n    len(os.sched_getaffinity(0))",
    "n = os.sysconf('x') if sys.platform == 'linux' else 0",
    "if not WINDOWS:\n    os.kill(pid, signal.SIGKILL)",
    "try:\n    link.symlink_to(path)\nexcept OSError:\n    copy(path, link)",
    "open(path, 'rb')",
    "path.open('wb')",
    "open(path, encoding='utf-8')",
    "path.write_text(text, encoding='utf-8', newline='\\n')",
    "os.open(path, os.O_RDONLY)",
    "subprocess.run(words, encoding='utf-8', errors='replace')",
    "signal.signal(signal.SIGTERM, stop)",
    "text.replace('a', 'b')",
]


@pytest.mark.parametrize("source", PLANTED)
def test_what_windows_lacks_is_found(source: str) -> None:
    assert len(list(leaning_on_unix(source))) == 1


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_guarded_or_the_same_everywhere_is_not(source: str) -> None:
    assert list(leaning_on_unix(source)) == []


# ------------------------------------------------------------------------------------------------- files


def refusing(times: int) -> Callable[..., None]:
    """An ``os.replace`` that is refused so often, as by a virus scanner."""
    real, left = os.replace, [None] * times

    def replace(source: Path, target: Path) -> None:
        if left:
            left.pop()
            raise PermissionError(13, "Access is denied")
        real(source, target)

    return replace


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for module in (windows, gpu, ranks):
        monkeypatch.setattr(module, "WINDOWS", True)
    monkeypatch.setattr(windows, "WAITS", (0.0, 0.0, 0.0))
    return monkeypatch


def test_a_file_that_a_scanner_looks_at_is_moved_when_it_is_done(
    on_windows: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_windows.setattr(os, "replace", refusing(3))
    with written_whole(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("system", ["windows", "linux"])
def test_a_file_that_stays_open_stays_as_it_was(
    system: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if system == "windows":
        request.getfixturevalue("on_windows")
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refusing(4 if system == "windows" else 1))  # Linux means it the first time
    with pytest.raises(PermissionError), written_whole(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_what_is_open_for_reading_is_not_synced(on_windows: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FlushFileBuffers takes what is open for writing; a folder cannot be opened at all."""
    opened: dict[int, int] = {}
    real_open, real_sync = os.open, os.fsync

    def open_number(path: Path, flags: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        opened[number := real_open(path, flags)] = flags
        return number

    def fsync(number: int) -> None:
        if opened.get(number) == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        real_sync(number)

    on_windows.setattr(os, "open", open_number)
    on_windows.setattr(os, "fsync", fsync)
    with folder_written_whole(tmp_path / "folder") as draft:
        (draft / "inside").mkdir()
        (draft / "inside" / "a").write_bytes(b"x")
    assert (tmp_path / "folder" / "inside" / "a").read_bytes() == b"x"


def test_text_has_the_same_bytes_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: asked.append(k) or real(self, *a, **k))
    with written_whole(tmp_path / "a", "w") as file:
        file.write("one\ntwo\n")
    assert asked == [{"encoding": "utf-8", "newline": "\n"}]


def test_a_file_that_may_not_be_deleted_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "iter_1.pth").write_bytes(b"x")

    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(32, "The process cannot access the file")

    monkeypatch.setattr(Path, "unlink", unlink)
    remove(tmp_path / "iter_1.pth")


def test_without_a_home_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VARLEN_LAB_CACHE", "XDG_CACHE_HOME", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)

    def nobody(path: str) -> str:
        return path  # what os.path.expanduser does for a number without a name

    monkeypatch.setattr(os.path, "expanduser", nobody)
    with refused(r"no home folder .* VARLEN_LAB_CACHE"):
        cache_dir()
    monkeypatch.setenv("VARLEN_LAB_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


# ------------------------------------------------------------------------------------------------- the machine


def test_several_processes_are_refused_in_a_sentence(on_windows: pytest.MonkeyPatch) -> None:
    for name in (*ranks.NUMBERS, "ADDR", "MASTER_ADDR"):
        on_windows.delenv(name, raising=False)
    assert ranks.to_start() == (0, None) and ranks.this_process() is None
    on_windows.setenv("NPROC_PER_NODE", "2")
    with refused("torch for Windows.*NPROC_PER_NODE.*WSL"):
        ranks.to_start()
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        on_windows.setenv(name, value)
    with refused("torch for Windows"):
        ranks.this_process()


def test_facts_of_a_machine_without_proc_and_resource(on_windows: pytest.MonkeyPatch) -> None:
    import psutil  # on Linux it asks for what is taken away below

    real = Path.read_text

    def read_text(self: Path, *given: object, **named: object) -> str:
        if str(self).startswith("/proc"):
            raise FileNotFoundError(2, "No such file", str(self))
        return real(self, *given, **named)  # type: ignore[arg-type]

    on_windows.setattr(Path, "read_text", read_text)
    on_windows.delattr(os, "sched_getaffinity", raising=False)
    on_windows.delattr(os, "sysconf", raising=False)
    assert environment.processor() and environment.cores() >= 1
    assert environment.memory_row().state in ("ok", "note") and "GiB" in environment.memory_row().value
    assert environment.peak_memory() > 2**20  # macOS
    on_windows.setitem(sys.modules, "resource", None)

    class Windows:
        peak_wset = 5 * 2**20

    on_windows.setattr(psutil.Process, "memory_info", lambda self: Windows())
    assert environment.peak_memory() == Windows.peak_wset


def test_wheels_are_named_for_windows(on_windows: pytest.MonkeyPatch) -> None:
    facts = gpu.GpuFacts("2.11.0+cpu", driver="580.1", driver_cuda="13.0")
    assert gpu.flash_attn_wheel(facts).endswith("win_amd64.whl")
    assert "Linux" not in gpu.without_gpu(facts) and "Windows" in gpu.without_gpu(facts)
