"""``varlen-lab train``: step 5. One process is the usual case; who starts several is in ``machine.launch``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.cli import add_config, add_no_isolate, read_config
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, plural
from varlen_lab.machine import launch, ranks, signals, threads
from varlen_lab.machine.console import say

if TYPE_CHECKING:
    from varlen_lab.training.history import History
    from varlen_lab.training.outlook import Outlook


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, overrides, and what XTuner has flags for."""
    add_config(parser)
    parser.add_argument("--work-dir", help="where checkpoints and history go")
    parser.add_argument("--seed", type=int, help="fixes weights from scratch and the order of the data")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="PTH",
        help="go on from the newest checkpoint of the work dir, or from PTH",
    )
    parser.add_argument("--launcher", choices=launch.LAUNCHERS, default="none", help="slurm: started by srun")
    parser.add_argument("--deepspeed", metavar="NAME", help="deepspeed_zero1, 2, 3, ..., or a JSON file")
    parser.add_argument("--fsdp", action="store_true", help="share the model out over the processes with FSDP2")
    add_no_isolate(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Train and say where the result lies; with NPROC_PER_NODE the processes that are started do.

    143 where a signal asked it to end before the last step, whatever it was doing.
    """
    try:
        with signals.heeded():
            return train_or_start(args)
    except signals.Terminated as asked:
        say_stopped(str(asked))
        return signals.STOPPED
    except KeyboardInterrupt:
        if ranks.is_first():
            raise
        return 130  # the first process says so


def train_or_start(args: argparse.Namespace) -> int:
    """As ``run``, which heeds signals around it."""
    config = config_of(args)
    if args.launcher == "slurm":
        ranks.export_slurm_ranks()
    ranks.this_process()  # what is wrong with its variables is said before anything waits
    launch.end_with_launcher()
    # this process starts the others and waits for them; it trains nothing itself
    count, machine = ranks.to_start()
    if count:
        return launch.start_processes(count, args.argv, machine)
    threads.suit(config.model_config, config.pretrained_model_name_or_path)
    history = train_and_print(config, args)
    if ranks.is_first():  # of several processes it speaks for all
        summarise(history, bool(args.resume))
    return signals.STOPPED if history.stopped else 0


def config_of(args: argparse.Namespace) -> Config:
    """The config with what the command line changes; InputError when it sets a value twice."""
    flags = {"work_dir": args.work_dir, "seed": args.seed}
    for name, value in flags.items():
        if value is not None and any(pair.startswith(f"{name}=") for pair in args.cfg_options):
            raise InputError(f"--cfg-options and --{name.replace('_', '-')} both set {name}; keep one of the two.")
    config = read_config(args.config, [*args.cfg_options, *args.no_isolate], acting=True)
    return config.replace(**{name: value for name, value in flags.items() if value is not None})


def train_and_print(config: Config, args: argparse.Namespace) -> History:
    """Train, with the outlook before it and held-out losses and answers on the way printed.

    InputError for a full GPU, and where another process of the run is gone.
    """
    import torch

    from varlen_lab.training.monitoring import beside_bars
    from varlen_lab.training.trainer import train

    def print_outlook(outlook: Outlook) -> None:
        if config.mode == "packed" and outlook.documents > outlook.rows:
            warnings.warn(not_varlen(args.config), stacklevel=1)
        for line in outlook.lines() if ranks.is_first() and not args.quiet else ():
            say(line, hang=2)

    def print_results(record: dict[str, Any]) -> None:
        facts = [f"held-out loss {record['held_out_loss']:.4f}"] if "held_out_loss" in record else []
        for line in facts + [f"says: {text!r}" for text in record.get("samples", [])]:
            with beside_bars():
                say(f"step {record['step']}: {line}", hang=2)

    try:
        return train(
            config,
            progress=not args.quiet,
            on_start=print_outlook,
            on_step=print_results,
            resume=args.resume,
            deepspeed=args.deepspeed,
            fsdp=args.fsdp,
        )
    except torch.OutOfMemoryError as problem:
        raise InputError(
            f"the GPU's memory is full ({str(problem).split('.')[0]}); lower max_length or batch_size, set "
            "gradient_checkpointing = True or method = 'lora', or share the model out with --fsdp or --deepspeed."
        ) from None
    except RuntimeError as problem:
        if not launch.is_lost_connection(problem):
            raise
        raise InputError("another process of this run has ended, see what it said; go on with --resume.") from None
    finally:
        if torch.distributed.is_initialized() and "RANK" in os.environ:
            torch.distributed.destroy_process_group()


def not_varlen(config: str) -> str:
    """What a packed run must be told whose seams are open; ``config``: the word of the command line that names it."""
    change = f"{config}: use_varlen_attn = True" if Path(config).is_file() else "--cfg-options use_varlen_attn=True"
    return (
        "this run is NOT varlen: with use_varlen_attn = False a token also attends to the other documents in its row; "
        f"one line changes it, {change}"
    )


def say_stopped(by: str) -> None:
    """That a run is not finished, and how it goes on; of several processes the first speaks."""
    if ranks.is_first():
        say(f"stopped by {by}; go on with --resume", stream=sys.stderr)


def summarise(history: History, resumed: bool) -> None:
    """What was trained, on what, how fast, and where it lies."""
    if resumed:
        where = f"from step {history.begun}" if history.begun else "from step 0, there is no checkpoint to resume"
        taken = f"{plural(history.taken, 'step')} taken now"
        say(f"resumed {where}: {taken if history.taken else 'the run is finished, there is nothing to do'}", hang=2)
    if not history.records:
        return
    meta, last = history.meta, history.records[-1]
    losses = history.trained_losses or [float("nan")]
    say(meta["data_report"], hang=2)
    if isolated := meta.get("isolated"):
        say(isolated, hang=2)
    several = f" · {meta['processes']} processes ({meta['engine']})" if meta["processes"] > 1 else ""
    first = history.records[0]["step"]
    steps = f"in {plural(last['step'], 'step')}" if first == 1 else f"from step {first} to step {last['step']}"
    say(
        f"{meta['mode']} · {meta['backend']} · {meta['device']} · {meta['dtype']} · seed {meta['seed']}{several}: "
        f"loss {losses[0]:.4f} → {losses[-1]:.4f} {steps}, "
        f"{history.tokens_per_second:,.0f} real tokens/s ({history.trained_per_second:,.0f} trained on), "
        f"padding {history.padding_share:.1%}, "
        f"{history.utilisation:.0%} of the device's speed",
        hang=2,
    )
    if skipped := sum(record.get("skipped", False) for record in history.records):
        were = "was skipped, its" if skipped == 1 else "were skipped, their"
        say(f"{plural(skipped, 'step')} {were} loss or gradient was not finite", "yellow", hang=2)
    if untrained := history.untrained_steps:
        say(f"{plural(untrained, 'step')} had no token to train on and moved no weight", "yellow", hang=2)
    if history.stopped:
        say_stopped(history.stopped_by)
    say(f"saved {history.checkpoint}")
