"""What varlen attention is worth on a GPU: one command, ten minutes, one report.

    python -m benchmarks.gpu --minutes 9 -o DIR                 all sections that fit, on one CUDA device
    python -m benchmarks.gpu --minutes 9 -o DIR --sections page lessons
    python -m benchmarks.gpu --dry-run                          the plan with its times; needs no GPU
    python -m benchmarks.gpu --rehearse -o DIR                  every section in miniature on a CPU: does it run?

    plan        sections, seconds, what is asked          runner     a process a section, ended at its limit
    store       results.json, written after every cell    bench      device, sizes, clocks
    ceilings correctness kernels training peers parity masks page lessons     the sections
    goals       must, goal, stretch; met or not           figures, report     five pictures, one page

Calls with the same DIR are merged: the newest value of a cell counts. Rehearsed cells are marked, and never mixed with
measured ones.
"""
