"""Every kind of fault, in the order of the table."""

from __future__ import annotations

from benchmarks.faults import bits, bombs, fields, full, kills, places, signals, writers
from benchmarks.faults.outcomes import Kind

KINDS: dict[str, Kind] = {
    "kill": Kind("a process is killed at every operation on a file, and in every write", kills.strikes, few=8),
    "bits": Kind("bits, pages and ends of every file that is read back", bits.damages, few=8),
    "full": Kind("a full disk, at every write", full.fills, few=6),
    "places": Kind("places where nothing can be read or written", places.wrong, few=10),
    "writers": Kind("two processes in one place", writers.meetings, few=4),
    "signals": Kind("Ctrl-C and SIGTERM at every phase", signals.breaks, few=6),
    "bombs": Kind("code in every kind of file, through every verb that opens it", bombs.planted, few=10),
    "fields": Kind("nasty values in every field of every record", fields.crafted, few=10),
}
