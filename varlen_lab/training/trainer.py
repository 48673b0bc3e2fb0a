"""``train(config)``: from a config to checkpoints, in the order in which things happen.

``data`` gives rows, ``plan`` says which make a step, ``step`` takes it, ``engines`` hold the weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.documents.days import write_on
from varlen_lab.errors import InputError, first_line, of_kind
from varlen_lab.files.locks import check_held
from varlen_lab.files.writing import remove
from varlen_lab.machine.repeatable import note_threads
from varlen_lab.models.building import build_model, resolve_device
from varlen_lab.models.fingerprints import base_fingerprint
from varlen_lab.training.beginning import Beginning, claimed, told
from varlen_lab.training.checkpoint import (
    check_model,
    data_fingerprint,
    number_of,
    open_checkpoint,
    rng_state,
    set_rng_state,
)
from varlen_lab.training.curves import check_visualizer, curves
from varlen_lab.training.data import load_tokenizer, pad_id
from varlen_lab.training.determinism import repeatable
from varlen_lab.training.earlier import begin_history, facts_to_keep
from varlen_lab.training.engines import Engine, any_process, describe, engine_name, make_accelerator, make_engine
from varlen_lab.training.engines.folders import in_first_process
from varlen_lab.training.evaluation import answers, held_out_loss
from varlen_lab.training.finite import refuse_nonfinite
from varlen_lab.training.history import History
from varlen_lab.training.kernel import decide_kernel, receipt_to_keep
from varlen_lab.training.leak_check import check_in_first_process
from varlen_lab.training.limits import check_limits, refuse_format
from varlen_lab.training.monitoring import progress_bar, stop_on_sigterm
from varlen_lab.training.outlook import Outlook, estimate
from varlen_lab.training.plan import plan_fingerprint, row_totals, share
from varlen_lab.training.step import ALONE, Batch, batched, collator, optimize
from varlen_lab.training.stream import StreamEnded
from varlen_lab.training.stream_steps import StreamedSteps, streamed_outlook
from varlen_lab.training.supply import Data, planned_data, refuse_dataset
from varlen_lab.training.workdir import (
    HISTORY,
    check_place,
    checkpoint_bytes,
    keep_batches,
    set_aside,
    work_dir_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train(
    config: Config,
    *,
    dataset: Iterable[Any] | None = None,
    progress: bool = True,
    on_start: Callable[[Outlook], None] | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    resume: bool | str | Path = False,
    deepspeed: str | None = None,
    fsdp: bool = False,
) -> History:
    """Train as the config says; checkpoints and ``history.jsonl`` go to its work_dir.

    Returns the History of the run. ``on_start`` is told what the run will do and cost, ``on_step`` gets every record,
    for a live plot; both in the first process only. ``resume`` goes on from the newest checkpoint of the work_dir (or
    a given one) as if the run had never stopped: to the last bit on a CPU, and on a GPU with ``deterministic = True``.
    Without a checkpoint it starts at step 0. Another run in the work_dir is moved into a folder ``earlier-ID`` there,
    and a work_dir that another process trains in is refused. SIGTERM saves and returns early. ``deepspeed`` (one of
    XTuner's names or a JSON file) or ``fsdp`` shares the model out over the processes that were started.

    With ``pack_strategy = 'sequential'`` the rows come in the order of the data, read as they are trained on: it may be
    larger than memory. ``dataset`` is read instead of ``data_path`` then: an ``IterableDataset`` of ``datasets``, or
    any iterable of records. Raises InputError for bad input, for a checkpoint of another config, other data or another
    plan, and when loss, gradient or weights stay no numbers; LeakFound, before anything is written, when the model does
    not keep packed documents apart.

    Weights, the order of data and dropout come from the config's seed alone, in several threads too.
    """
    of_kind("config", config, Config, "a Config", "load_config makes one of a file or a name")
    refuse_format(config, deepspeed, fsdp)
    refuse_dataset(config, dataset)
    if config.visualizer is not None:
        check_visualizer(config)
    with ExitStack() as until_it_ends:
        # before anything that takes time, and until the last byte is written
        begins = claimed(work_dir_of(config), resume, until_it_ends)
        if config.deterministic:
            until_it_ends.enter_context(repeatable(True, resolve_device(config)))
        with ALONE:  # transformers and accelerate cannot be set up by two threads at once
            run = prepared(config, dataset, progress, on_start, begins, deepspeed, fsdp)
        run.take_steps(progress, on_step)
    return run.history


def prepared(
    config: Config,
    dataset: Iterable[Any] | None,
    progress: bool,
    on_start: Callable[[Outlook], None] | None,
    begins: Beginning | InputError | None,
    deepspeed: str | None,
    fsdp: bool,
) -> Run:
    """Everything a run needs before its first step, which it then stands at; see ``train``.

    ``begins``: of ``claimed``, known in the first process.
    """
    accelerator, work_dir = make_accelerator(config), work_dir_of(config)
    first = accelerator.is_main_process
    # the first one's: a machine that does not see the folder must not begin at step 0 alone
    beginning = in_first_process(accelerator, lambda: told(begins))
    tokenizer = load_tokenizer(config)
    write_on(tokenizer, beginning.day)
    # before the data: tokenising can take minutes, and a model that cannot be had should be said at once
    # under FSDP2 the first process alone has weights, and gives them to the others; qlora is refused by the engine
    model = build_model(config, empty=fsdp and not first and config.method != "qlora")
    in_first_process(accelerator, lambda: check_place(work_dir, checkpoint_bytes(config, model)))
    data = planned_data(config, model, tokenizer, accelerator, dataset, progress=progress and first)
    rows, plan, stream = data.rows, data.plan, data.stream
    notices = check_limits(config, model, rows, [] if stream else plan, tokenizer, data.held_out)
    outlook = estimate(config, model, rows, plan, accelerator, engine=engine_name(deepspeed, fsdp))
    if stream is not None:
        outlook = streamed_outlook(outlook, stream, data.steps)
        notices += stream.documents.notes
    # before the engine: it takes the memory the timing needs
    choice = decide_kernel(config, model, rows, plan, accelerator, receipt_to_keep(config, beginning.checkpoint))
    # while the first process has all of the weights, and before anything is written
    leak_check = check_in_first_process(config, model, rows, plan, accelerator, shared_out=bool(deepspeed or fsdp))
    engine = make_engine(model, config, data.steps, accelerator, deepspeed=deepspeed, fsdp=fsdp)
    history = History(describe(config, model, accelerator, choice), path=work_dir / HISTORY if first else None)
    history.meta |= {"steps": data.steps, "data_report": data.report, "data": data_fingerprint(rows)}
    history.meta |= {"engine": engine.kind, "operations_per_second": outlook.operations_per_second}
    # of an adapter: the weights that it is trained beside; a checkpoint of a whole model holds them
    base = None if config.method == "full" else in_first_process(accelerator, lambda: base_fingerprint(config))
    history.meta |= {"plan": plan_fingerprint(plan), **leak_check, **facts_to_keep(config, beginning, tokenizer, base)}
    for notice in notices if first else ():
        warnings.warn(notice, stacklevel=1)
    if first and on_start is not None:
        on_start(replace(outlook, done=beginning.step))
    run = Run(config, engine, tokenizer, data, outlook, work_dir, history, beginning)
    # in this order: which records of the old history stay depends on the step that is gone on from
    if beginning.checkpoint is not None:
        run.resume(beginning.checkpoint)
    run.begin_files()
    return run


@dataclass
class Run:
    """One run: everything its steps need, and what is done around a step."""

    config: Config
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    data: Data
    outlook: Outlook
    work_dir: Path
    history: History
    beginning: Beginning
    done: int = 0  # steps that were taken before
    own: list[Path] = field(default_factory=list)  # checkpoints in the work dir that this run wrote
    saved: list[Path] = field(default_factory=list)  # those of them that save_total_limit counts
    losses_before: list[float] = field(default_factory=list)  # of the steps before, as the checkpoint knows them
    streamed: StreamedSteps | None = None  # the steps that are being read

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = open_checkpoint(path, self.config, self.history.meta)
        # as the first process builds it: others may have it empty
        in_first_process(self.engine.accelerator, lambda: check_model(path, state, self.model_config()))
        self.engine.restore(path, state)
        set_rng_state(state["rng_state"])
        if self.engine.accelerator.device.type == "cpu":
            note_threads(state.get("threads"))
        if self.data.stream is not None:
            self.data.stream.load_state_dict(state["stream"])
        self.done = self.history.begun = state["step"]
        self.history.checkpoint = path
        self.losses_before = state["losses"]

    def begin_files(self) -> None:
        """History and config in the work dir, other runs out of the way; see ``begin_history``."""
        self.own = list(self.beginning.own)
        self.saved = [path for path in self.own if number_of(path) <= self.done]
        history, accelerator = self.history, self.engine.accelerator
        begins = self.beginning
        # a run that comes from elsewhere begins its history behind that step
        there = history.path is not None and begins.meta is not None and begins.checkpoint in begins.own
        in_first_process(accelerator, lambda: begin_history(self.work_dir, self.beginning, history, self.config))
        if there and repr(history.losses) != repr(self.losses_before):  # as texts: NaN is NaN
            had, saved = len(history.losses), len(self.losses_before)
            other = f"had {had} steps and {history.checkpoint} was written after {saved}"
            if had == saved:
                other = f"says other losses than {history.checkpoint}"
            warnings.warn(
                f"{history.path} {other}: it is damaged or another run's, curves of it show what it says.", stacklevel=2
            )

    def take_steps(self, progress: bool, on_step: Callable[[dict[str, Any]], None] | None) -> None:
        """The steps that are left, each with what is shown, measured and saved around it."""
        accelerator, history, first = self.engine.accelerator, self.history, self.engine.accelerator.is_main_process
        bar = progress_bar("train", self.data.steps, self.done, progress and first)
        drawing: AbstractContextManager[Callable[..., object]] = nullcontext(lambda record: None)
        if self.config.visualizer is not None and first and self.done < self.data.steps:
            drawing = curves(self.config, self.work_dir, history.meta, self.done)
        with bar, stop_on_sigterm() as stop, drawing as draw:
            for record in self.records():
                self.evaluate(record)
                self.check_folder()
                history.add(record)
                bar.set_postfix_str(history.status, refresh=False)
                bar.update()
                draw(record)
                if first and on_step is not None:
                    on_step(record)
                # SIGTERM may reach one process only, and to save takes all of them after the same step
                history.stopped = any_process(accelerator, stop.is_set()) and record["step"] < self.data.steps
                history.stopped_by = stop.by
                self.save_if_due(record["step"])
                if history.stopped:
                    break
        if self.streamed is not None:
            history.meta["data_report"] = self.streamed.report()

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of the steps that are left, each when it was taken; a stream that ends first is saved."""
        try:
            yield from optimize(self.engine, self.batches(), self.done, on_nonfinite=self.keep_nonfinite)
        except StreamEnded:
            if self.history.taken:
                self.save(self.history.records[-1]["step"])
            raise

    def batches(self) -> Iterator[list[Batch]]:
        """This process's batches of every step that is left."""
        config, data, accelerator = self.config, self.data, self.engine.accelerator
        collate = collator(config.mode, pad_id(self.tokenizer))
        processes, number = accelerator.num_processes, accelerator.process_index
        if data.stream is None:
            steps = share(data.plan[self.done :], row_totals(data.rows)[1], processes, number, config.batch_size)
            return batched(data.rows, steps, collate, config.dataloader_num_workers, config.loss_weighting)
        model, left = self.engine.unwrapped_model, data.steps - self.done
        self.streamed = StreamedSteps(data.stream, model, collate, processes, number, left)
        return iter(self.streamed)

    def evaluate(self, record: dict[str, Any]) -> None:
        """Add to the record of a step how busy the device was and, where the config says so, how good the model is."""
        record["mfu"] = self.outlook.utilisation(record)
        config, pad = self.config, pad_id(self.tokenizer)
        if config.evaluation_freq and record["step"] % config.evaluation_freq == 0:
            if self.data.held_out is not None:
                record["held_out_loss"] = held_out_loss(self.engine, self.data.held_out, config, pad)
            if config.evaluation_inputs:
                record["samples"] = answers(self.engine, self.tokenizer, config, pad)

    def check_folder(self) -> None:
        """InputError where the work dir was moved away since this process began to write there."""
        if self.engine.accelerator.is_main_process:
            check_held(self.work_dir)

    def save_if_due(self, step: int) -> None:
        """Write a checkpoint every ``save_steps``, at the end and before an early stop."""
        if not step % self.config.save_steps or step == self.data.steps or self.history.stopped:
            self.save(step)

    def save(self, step: int) -> None:
        """Write a checkpoint; the oldest make room. InputError when there is nothing finite to write."""
        refuse_nonfinite(self.engine, step, self.history.checkpoint)
        self.check_folder()
        path = self.work_dir / f"iter_{step}.pth"
        if (
            self.engine.accelerator.is_main_process
            and path not in self.own
            and (moved := set_aside(self.work_dir, None, [path]))
        ):
            warnings.warn(f"{path} was not of this run, it is kept in {moved}", stacklevel=1)
        self.own.append(path)
        self.engine.save(path, self.contents(step))
        self.saved = [*(old for old in self.saved if old != path), path]
        # only after the new one is whole: there is always one to go on from
        while 0 < self.config.save_total_limit < len(self.saved):
            oldest = self.saved.pop(0)
            if self.engine.accelerator.is_main_process:
                remove(oldest)
        self.history.checkpoint = path

    def model_config(self) -> str:
        """The config of the model as JSON, with every default in it."""
        model: Any = self.engine.unwrapped_model
        text: str = model.config.to_json_string(use_diff=False)
        return text

    def contents(self, step: int) -> dict[str, Any]:
        """What a checkpoint holds besides what the engine puts there, and the words to understand it."""
        return {
            "rng_state": rng_state(),
            "data": self.history.meta["data"],
            "step": step,
            "processes": self.engine.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "config": render(self.config),
            "config_name": self.config.name,
            "model_config": self.model_config(),
            "meta": {key: value for key, value in self.history.meta.items() if isinstance(value, (str, int, dict))},
            "losses": self.history.losses,
            **({} if self.streamed is None else {"stream": self.streamed.state_dict()}),
        }

    def keep_nonfinite(self, step: int, batches: list[Batch]) -> str:
        """Batches whose loss was not finite, as ``nonfinite_step_N.pt``, to be looked at: where they are."""
        accelerator = self.engine.accelerator
        rank = f"_rank_{accelerator.process_index}" if accelerator.num_processes > 1 else ""
        kept = [{**batch.inputs, "labels": batch.labels} for batch in batches]
        try:
            return str(keep_batches(self.work_dir, f"nonfinite_step_{step}{rank}.pt", kept))
        except (OSError, RuntimeError) as problem:  # what is wrong with the loss must be said all the same
            return f"no file ({first_line(problem)})"
