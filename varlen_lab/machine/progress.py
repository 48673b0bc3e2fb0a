"""The progress bar of a long run: step, loss, real tokens per second and the attention backend. Quiet on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(title: str, total: int, backend: str, show: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A context that yields ``update(record)``; with ``show=False`` it draws nothing."""
    if not show:
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, facts="")
        tokens = seconds = 0.0

        def update(record: dict[str, Any]) -> None:
            nonlocal tokens, seconds
            tokens, seconds = tokens + record["tokens"], seconds + record["seconds"]
            speed = tokens / max(seconds, 1e-9)
            facts = f"loss {record['loss']:.3f} · lr {record['lr']:.1e} · {speed:,.0f} tok/s · {backend}"
            progress.update(task, advance=1, facts=facts)

        yield update
