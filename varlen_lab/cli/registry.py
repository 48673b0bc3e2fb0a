"""The verbs of the command ``varlen-lab``, one record each, in the order of ``--help``.

To add a verb, add its file and a record here. No file is imported before its verb is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One word behind ``varlen-lab``: its file in this folder and what the two ``--help`` say of it.

    ``run(args) -> int`` and ``add_arguments(parser)`` are functions of that file, under these names or the given ones.
    """

    module: str
    help: str  # its line in `varlen-lab --help`
    description: str  # what `varlen-lab VERB --help` begins with
    run: str = "run"
    add_arguments: str = "add_arguments"


VERBS: dict[str, Verb] = {
    "check-env": Verb(
        "check_env",
        "what this machine can run, with a numeric check",
        "Show what this machine can run, and check packed attention against each document alone.",
    ),
    "list-cfg": Verb(
        "list_cfg",
        "the configs that exist; -p PATTERN narrows the list",
        "List the configs, or those that match a pattern.",
    ),
    "copy-cfg": Verb(
        "copy_cfg",
        "copy a config into a folder, to edit it there",
        "Copy a config into a folder as NAME_copy.py.",
    ),
    "check-custom-dataset": Verb(
        "check_custom_dataset",
        "bad records by line and reason, token counts, the pack report",
        "Check data before training: bad records by line and reason, token counts, and what packing makes of it.",
    ),
    "log-dataset": Verb(
        "log_dataset",
        "a packed row with its seams and what is trained on",
        "Show a packed row of a config's data: seams, positions, and what is trained on (coloured in a terminal).",
    ),
    "train": Verb(
        "train",
        "train from a config file or a config name",
        "Train from a config; checkpoints go to work_dirs/NAME/iter_N.pth. NPROC_PER_NODE=2 trains in two processes.",
    ),
    "compare": Verb(
        "compare",
        "three losses: unpacked, packed and varlen",
        "Run the three modes on the same documents per step, from the same weights, and set the losses side by side.",
    ),
    "support": Verb(
        "support",
        "the support table of eleven model families, measured now",
        "Audit every variant of the eleven families: does packing change what the model computes?",
    ),
    "audit": Verb(
        "audit",
        "does packing change what a model computes? leaks, parity, traps",
        "Audit a config, or a model folder: leak matrix, parity with every document alone, and known traps.",
    ),
    "census": Verb(
        "census",
        "every model class of transformers: which packed batch is it safe with?",
        "Build every causal language model class of transformers tiny, and measure every style of packed batch on it.",
    ),
    "convert": Verb(
        "convert",
        "checkpoints to Hugging Face folders: pth_to_hf, merge",
        "Convert checkpoints: `convert pth_to_hf CONFIG PTH SAVE_DIR`; `convert merge LLM ADAPTER SAVE_DIR`.",
    ),
    "pack-report": Verb(
        "pack_report",
        "what packing does to a dataset: fill, losses, cost, steps",
        "Show what packing does to a dataset: how full rows are, what is lost, what it saves, how steps change.",
    ),
    "masks": Verb(
        "masks",
        "draw who sees whom in one packed row",
        "Draw who sees whom in one packed row: full causal attention beside varlen attention.",
    ),
    "run": Verb(
        "run",
        "run one notebook with parameters, and keep its page",
        "Run one notebook with parameters; keep the executed notebook and a page that opens offline.",
    ),
    "walkthrough": Verb(
        "run",
        "run every notebook, then show it all on one page",
        "Run every notebook in order, then write one page that opens offline: runs/walkthrough/index.html.",
        run="run_all",
        add_arguments="add_arguments_of_all",
    ),
}
