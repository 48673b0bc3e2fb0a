"""Processes meet before they do anything together, so that whoever waits for one that cannot come says so and ends.

torch.distributed and its launcher wait for half an hour without a word. Here every process writes its number at the
address they share, a key-value store that the first of them serves, and waits until all numbers are there.

    nobody answers at the address       40 seconds
    some have not come                  900 seconds: jobs start when their machines are free, and after 5 seconds it is
                                        said who is missing. VARLEN_LAB_WAIT=SECONDS sets another limit, for both
    the port is taken, a number twice   at once, and in all processes that are there
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from varlen_lab.errors import InputError, first_line
from varlen_lab.machine.ranks import Place, number

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

ANSWER_WITHIN, COME_WITHIN, GREET_WITHIN = 40, 900, 10  # seconds
SAY_AFTER = 5  # seconds of waiting
LONGER = "or wait longer with VARLEN_LAB_WAIT=SECONDS"
MYSELF = os.urandom(8).hex()  # another one in every process of every machine


def meet(place: Place, card: str | None = None) -> list[Store]:
    """Wait until all that belong to a run are there; to be kept until they are connected with each other.

    ``card``: the GPU this process will use, in words that name it and no other. InputError for a port that is taken,
    an address where nobody answers, two processes with one number or card, and for those who do not come.
    """
    import torch.distributed as dist

    server = serve(place) if place.number == 0 and not served_by_launcher(place) else None
    wait_for_answer(place)
    store = in_time(lambda: connect(place), place)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may start them again, around the same store
    inside = dist.PrefixStore(f"varlen_lab/{place.what}/{attempt}", store)
    try:
        come_in(inside, place, card)
        wait_for_all(inside, place)
    except RuntimeError as problem:
        raise InputError(
            f"the first {place.what} of this run, at {place.host}:{place.port}, has ended ({first_line(problem)}); see "
            "what it said."
        ) from None
    return [inside, store] + ([server] if server else [])


def served_by_launcher(place: Place) -> bool:
    """Whether torchrun, which started these processes, serves the store they meet at."""
    return place.what == "process" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def serve(place: Place) -> TCPStore:
    """The store of the first; InputError when its port is taken or not allowed."""
    import torch.distributed as dist

    check_port(place.port, place.names[1])
    try:
        # torch.distributed gets the same server when it asks for one at this port
        return dist.TCPStore("127.0.0.1", place.port, None, True, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as problem:
        raise InputError(
            f"{place.names[1]}={place.port} cannot be used ({first_line(problem)}); take another."
        ) from None


def check_port(port: int, name: str) -> None:
    """InputError when nothing can listen at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed a moment ago is free
        try:
            probe.bind(("", port))
        except OSError as problem:
            raise InputError(
                f"port {port} cannot be used on this machine ({problem.strerror}); take another one with {name}."
            ) from None


def wait_for_answer(place: Place) -> None:
    """Until the address answers; InputError after 40 seconds, with what the system says of it."""
    start, said, limit = time.monotonic(), False, number("VARLEN_LAB_WAIT", ANSWER_WITHIN)
    while True:
        try:
            socket.create_connection((place.host, place.port), timeout=3).close()
            return
        except (OSError, UnicodeError) as problem:
            reason = getattr(problem, "strerror", None) or first_line(problem)
        waited = time.monotonic() - start
        if waited > limit:
            raise InputError(
                f"the first {place.what} of this run does not answer at {place.host}:{place.port} ({reason}); check "
                f"the address, and that it was started, {LONGER}."
            )
        if waited > SAY_AFTER and not said:
            said = True
            warnings.warn(f"waiting for an answer from {place.host}:{place.port} ({reason})", stacklevel=2)
        time.sleep(0.3)


def connect(place: Place) -> TCPStore:
    """The store at the address, whoever serves it."""
    import torch.distributed as dist

    limit = timedelta(seconds=number("VARLEN_LAB_WAIT", COME_WITHIN))
    return dist.TCPStore(place.host, place.port, None, False, limit, wait_for_workers=False)


def in_time(work: Callable[[], TCPStore], place: Place) -> TCPStore:
    """What ``work`` returns; InputError when it does not: another program at the port may say nothing, for ever."""
    done: list[TCPStore] = []

    def try_it() -> None:
        with contextlib.suppress(RuntimeError):  # said below
            done.append(work())

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(GREET_WITHIN)
    if not done:
        raise InputError(
            f"at {place.host}:{place.port} answers another program than the first {place.what} of this run; take "
            f"another {place.names[1]}, the same for all."
        )
    return done[0]


def come_in(store: Store, place: Place, card: str | None) -> None:
    """Write that this one is there; InputError, which all others get too, when it does not fit to those who are."""
    rank, count = place.names[0], place.total
    facts = [
        (
            "count",
            str(count),
            f"it is one of {count} and others are not; start all with the same number",
        ),
        (f"is/{place.number}", MYSELF, f"another one has {rank}={place.number} too; every one has its own number"),
    ]
    if card is not None:
        sentence = "another process of this machine takes the same GPU; start at most one process a GPU"
        facts.append((f"card/{card}", MYSELF, sentence))
    for key, mine, sentence in facts:
        if store.compare_set(key, "", mine).decode() != mine:
            said = f"{place.what} {place.number} cannot take part: {sentence}."
            store.set("wrong", said)
            raise InputError(said)


def wait_for_all(store: Store, place: Place) -> None:
    """Until every number is there; InputError when one cannot take part, or does not come."""
    keys = [f"is/{each}" for each in range(place.total)]
    start, said, limit = time.monotonic(), False, number("VARLEN_LAB_WAIT", COME_WITHIN)
    while not store.check(keys):
        if store.check(["wrong"]):
            raise InputError(store.get("wrong").decode())
        waited = time.monotonic() - start
        if waited > limit:
            raise InputError(
                f"{missing(store, place)} did not come to {place.host}:{place.port} in {limit} s; start all of them, "
                f"see what they said, {LONGER}."
            )
        if waited > SAY_AFTER and not said and place.number == 0:
            said = True
            warnings.warn(
                f"waiting for {missing(store, place)} at {place.host}:{place.port}, {limit} s at most", stacklevel=2
            )
        time.sleep(0.2)


def missing(store: Store, place: Place) -> str:
    """Who has not come, in words. A question each: of a thousand processes only who has to say it may ask."""
    numbers = [str(each) for each in range(place.total) if not store.check([f"is/{each}"])]
    return f"{place.what} {', '.join(numbers[:8])}{', ...' if len(numbers) > 8 else ''} of {place.total}"
