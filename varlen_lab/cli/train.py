"""``varlen-lab train``: step 5."""

from __future__ import annotations

import argparse

from varlen_lab.cli.resolve import add_config, read_config

HELP = "Train from a config; checkpoints go to work_dirs/NAME/iter_N.pth."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, overrides, and the two settings XTuner has flags for."""
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
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Train and say where the result lies."""
    flags = {"work_dir": args.work_dir, "seed": args.seed}
    config = read_config(args.config, args.cfg_options)
    config = config.replace(**{name: value for name, value in flags.items() if value is not None})
    from rich.console import Console

    from varlen_lab.train import train

    console = Console(highlight=False, soft_wrap=True)
    history = train(config, progress=not args.quiet, resume=args.resume)
    before = len(history.records) - history.taken
    if args.resume:
        where = f"from step {before}" if before else "from step 0, there is no checkpoint to resume"
        what = f"{history.taken} steps taken now" if history.taken else "the run is finished, there is nothing to do"
        console.print(f"resumed {where}: {what}", markup=False)
    if not history.records:
        return 0
    meta, last = history.meta, history.records[-1]
    console.print(f"{meta['data_report']}", markup=False)
    console.print(
        f"{meta['mode']} · {meta['backend']} · {meta['device']} · {meta['dtype']} · seed {meta['seed']}: "
        f"loss {history.losses[0]:.4f} → {last['loss']:.4f} in {last['step']} steps, "
        f"{history.tokens_per_second:,.0f} real tokens/s, padding {history.padding_share:.1%}",
        markup=False,
    )
    skipped = sum(record.get("skipped", False) for record in history.records)
    if skipped:
        console.print(f"{skipped} steps were skipped, their loss or gradient was not finite", style="yellow")
    if history.stopped:
        console.print("stopped by SIGTERM; go on with --resume")
    console.print(f"saved {history.checkpoint}", markup=False)
    return 0
