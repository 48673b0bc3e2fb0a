"""A checkpoint that is a folder: all processes write into it, and its ``run.pth`` lists every other file with its digest.

Each process computes the digests of its share of the files, when they are written and when a run goes on from them.
What fails in one of them fails in all, so that none is left waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import check_listed, listed
from varlen_lab.files.writing import folder_written_whole, remove
from varlen_lab.training.checkpoint import RUN_FILE, checkpoints_in, full_disk_told, read_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
FILES = "files"  # the key in run.pth: the digest of every other file, by its name from the folder


@contextmanager
def folder_of_all(path: Path, accelerator: Accelerator) -> Iterator[Path]:
    """An empty folder which all processes write into; it becomes ``path`` when the first one's block has ended well.

    InputError when it cannot be written, or is not the same one for all. What fails leaves nothing behind.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    making = folder_written_whole(path) if accelerator.is_main_process else nullcontext()
    with full_disk_told(path), making as draft:
        folder = Path(broadcast_object_list([str(draft)])[0])  # its name, which the first process has chosen
        # else each machine would write into a folder of its own, and only the first one's be moved into place
        if not all(gather_object([folder.is_dir()])):
            raise InputError(
                f"{path.parent} is not one folder for all machines, a checkpoint would lack shards; set work_dir to a "
                "folder that they share, or checkpoint_format = 'whole' with --fsdp."
            )
        try:
            yield folder
        except BaseException:
            remove(folder)  # by whoever is last: the first one cannot take away what others are still writing
            raise
    accelerator.wait_for_everyone()


def in_all(work: Callable[[], T]) -> list[T]:
    """What ``work()`` returns in every process, which all call this, by rank; its InputError or OSError in one is all's."""
    from accelerate.utils import gather_object

    result, problem = None, None
    try:
        result = work()
    except (InputError, OSError) as error:
        problem = error
    everywhere: list[tuple[Any, Exception | None]] = gather_object([(result, problem)])
    if first := next((problem for _, problem in everywhere if problem is not None), None):
        raise first
    return [result for result, _ in everywhere]


def digests_of_all(folder: Path, accelerator: Accelerator) -> dict[str, str]:
    """The digest of every file in ``folder``, which all processes have written and see, for run.pth."""
    names = files_in(folder)
    rank, count = accelerator.process_index, accelerator.num_processes
    shares = in_all(lambda: listed(folder, names[rank::count]))
    return {name: digest for share in shares for name, digest in share.items()}


def files_in(folder: Path) -> list[str]:
    """Every file of a checkpoint folder but its run.pth, by its name from there."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in found if name != RUN_FILE]


def check_folder(path: Path, state: dict[str, Any], inside: str, accelerator: Accelerator | None = None) -> None:
    """InputError that names a file of a checkpoint folder which is missing, damaged, or not the run's.

    ``state``: its run.pth. ``inside``: the folder in it where no file may be that the run did not write. With
    ``accelerator`` all processes call this, and each looks at its share.
    """
    digests = state.get(FILES)
    if digests is None:  # written by an earlier version
        return
    rank, count = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)

    def look() -> None:
        wrong = f"{path / RUN_FILE} has no list of files; take another checkpoint"
        if not isinstance(digests, dict) or not all(isinstance(word, str) for pair in digests.items() for word in pair):
            raise InputError(f"{wrong}.")
        strange = [name for name in files_in(path) if name not in digests and name.startswith(f"{inside}/")]
        if strange := [name for name in strange if not Path(name).name.startswith(".")]:  # a file manager's own
            raise InputError(f"{path / strange[0]} was not written by the run; move it away.")
        try:
            check_listed(path, digests, "", share=lambda number: number % count == rank)
        except InputError as problem:
            raise InputError(f"{str(problem).removesuffix('; .')}; {older_than(path)}.") from None

    if accelerator is None:
        look()
    else:
        in_all(look)


def older_than(path: Path) -> str:
    """What to do instead of going on from a damaged checkpoint: the newest older one of its folder that is whole."""
    number = int(path.stem[5:]) if path.stem[5:].isdecimal() else 0
    for older in reversed(checkpoints_in(path.parent)):
        if int(older.stem[5:]) < number and is_whole(older):
            return f"copy it again, or take {older}, which is whole"
    return "copy it again, or start anew in another work_dir"


def is_whole(path: Path) -> bool:
    """Whether a checkpoint, a file or a folder, is there as it was written."""
    try:
        state = read_checkpoint(path)
        if path.is_dir():
            check_listed(path, state.get(FILES) or {}, "")
    except (InputError, OSError):
        return False
    return True
