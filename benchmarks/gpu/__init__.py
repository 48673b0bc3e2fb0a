"""What varlen attention is worth on a GPU: one command, six minutes, one report.

    python -m benchmarks.gpu --minutes 6 -o DIR             the best first, whatever ends it early
    python -m benchmarks.gpu --minutes 3 -o DIR --sections tests lessons        the GPU tests and lessons, the same DIR
    python -m benchmarks.gpu --smoke -o DIR                 45 seconds: does everything start here?
    python -m benchmarks.gpu --dry-run                      the clock; needs no GPU
    python -m benchmarks.gpu --rehearse -o DIR              all in miniature on a CPU; measures nothing

    plan        sections, their order, what each may take   runner      a process a section, ended at its limit
    store       results.json, written after every cell      bench       device, sizes, clocks, one cell
    smoke correctness parity kernels training peers masks tests lessons         the sections
    goals       must, goal, stretch; met or not, and why    report      the pictures' numbers, one page

Calls with the same DIR are merged: the newest value of a cell counts. Rehearsed cells are marked, and never mixed with
measured ones. A result of any card is a result: the goals are an H100's, the table names the card, nothing is scaled.
"""
