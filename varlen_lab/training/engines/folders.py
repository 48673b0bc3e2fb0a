"""A checkpoint that is a folder: all processes write into it, and its ``run.pth`` lists the digests of the other files.

Each process computes the digests of its share of the files, when they are written and when a run goes on from them.
What fails in one of them fails in all, so that none is left waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import listed
from varlen_lab.files.writing import folder_written_whole, remove
from varlen_lab.training.checkpoint import full_disk_told, refused
from varlen_lab.training.damage import check_files, files_in

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


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
    """What ``work()`` returns in every process, by rank; all call this. An InputError or OSError of one is all's."""
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


def in_first_process(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What ``work()`` returns in the first process, in all, which call this; its InputError or OSError is all's."""
    found: Any = in_all(lambda: work() if accelerator.is_main_process else None)[0]
    return found  # type: ignore[no-any-return]


def in_shares(accelerator: Accelerator | None, look: Callable[[int, int], None]) -> None:
    """``look(rank, count)`` in all processes, which call this, each at its share; without ``accelerator`` here, at all.

    Its InputError is all's.
    """
    if accelerator is None:
        look(0, 1)
    else:
        in_all(lambda: look(accelerator.process_index, accelerator.num_processes))


def digests_of_all(folder: Path, accelerator: Accelerator) -> dict[str, str]:
    """The digest of every file in ``folder``, which all processes have written and see, for run.pth."""
    names = files_in(folder)
    rank, count = accelerator.process_index, accelerator.num_processes
    shares = in_all(lambda: listed(folder, names[rank::count]))
    return {name: digest for share in shares for name, digest in share.items()}


def check_folder(path: Path, state: dict[str, Any], inside: str, accelerator: Accelerator | None = None) -> None:
    """InputError that names a file of a checkpoint folder which is missing, damaged, or not the run's.

    ``state``: its run.pth. ``inside``: the folder in it where no file may be that the run did not write. With
    ``accelerator`` all processes call this, and each looks at its share.
    """

    def look(rank: int, count: int) -> None:
        try:
            check_files(path, state, inside, share=lambda number: number % count == rank)
        except InputError as problem:
            raise refused(path, str(problem)) from None

    in_shares(accelerator, look)
