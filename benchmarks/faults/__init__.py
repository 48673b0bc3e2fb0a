"""Every way a run, a file or a place goes wrong, done on purpose, and what became of it.

    python -m benchmarks.faults                             all kinds: minutes on two cores
    python -m benchmarks.faults --small                     a few of each: seconds
    python -m benchmarks.faults --only bits --case 17       one case again

Each case runs in a process of its own, in a folder of its own, with a tiny model. It ends in one of these:

    refused     one sentence says what is wrong, exit code 2 (130, 143 for a signal)
    unharmed    the same result, to the last bit, as without the fault
    lost        what was there before is gone or changed, or there is nothing to go on from
    executed    foreign code ran: it left a file behind
    traceback   an exception that no person should see, or a crash
    silent      another result, and nothing said
    hang        no end within the limit

The last five are failures of the library, and the exit code is 1. ``NOTES.md`` and the README quote the table.
"""
