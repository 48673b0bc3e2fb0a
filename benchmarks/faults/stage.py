"""What faults are done to: a finished run, model and adapter folders, data and caches, all tiny, made once.

A case brings what it needs into its own folder, where it then stands: every path is relative, and a copy of a run is a
run. What a checkpoint or a history says is read here without the code that is under attack.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.children import in_child
from benchmarks.faults.outcomes import Outcome

CANARY = "EXECUTED"  # in the folder of a case: foreign code was there
STEPS = 3
IMPORTED = (
    "varlen_lab", "torch", "transformers", "peft", "accelerate", "datasets", "deepspeed", "bitsandbytes", "rich",
    "scipy", "matplotlib", "safetensors", "tokenizers", "jinja2", "pyarrow", "numpy", "xxhash", "pandas", "encodings",
)  # fmt: skip
# of a checkpoint: the rest is words, and random numbers, of which a new loader draws one and no step of these runs any
COMPARED = ("model", "optimizer", "scheduler", "step", "losses")
MODEL = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@dataclass
class Stage:
    """The folder that all is copied from, and a chooser of random places."""

    folder: Path
    seed: int = 0
    chooser: random.Random = field(default_factory=random.Random)

    def bring(self, *names: str) -> None:
        """Copies of files and folders of the stage, into the folder where this process stands."""
        for name in names:
            source = self.folder / name
            if source.is_dir():
                shutil.copytree(source, name, dirs_exist_ok=True)
            else:
                shutil.copy(source, name)

    def own_cache(self) -> Path:
        """A cache folder of this case alone, filled like that of the stage."""
        self.bring("cache")
        os.environ["VARLEN_LAB_CACHE"] = str(Path("cache").resolve())
        return Path("cache")


def build(folder: Path, seed: int) -> Stage:
    """Make the stage, in a process that is then gone; RuntimeError with its traceback where that fails."""
    folder.mkdir(parents=True)
    stage = Stage(folder, seed, random.Random(seed))

    def work() -> list[str]:
        os.chdir(folder)
        os.environ["VARLEN_LAB_CACHE"] = str(folder / "cache")
        copy_built_in(folder / "cache")
        make_everything()
        return list(sys.modules)

    ended = in_child(work, limit=180, said=folder / "said.txt")
    if not ended.whole:
        raise RuntimeError(f"the stage could not be made: {ended}\n{(folder / 'said.txt').read_text()}")
    for name in ended.value:  # what verbs import on the way: here once, not in every case anew
        if name not in sys.modules and name.split(".")[0] in IMPORTED:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # a verb that collects garbage need not look at all that was imported
    return stage


def copy_built_in(target: Path) -> None:
    """The built-in tokenizer, which takes seconds to make."""
    from varlen_lab.documents.builtin import builtin_tokenizer
    from varlen_lab.files.writing import cache_dir

    chosen = os.environ.pop("VARLEN_LAB_CACHE")
    try:
        builtin_tokenizer(progress=False)
        usual = cache_dir()
    finally:
        os.environ["VARLEN_LAB_CACHE"] = chosen
    target.mkdir()
    for file in [*usual.glob("docstrings-*"), *usual.glob("tokenizer-*")]:
        shutil.copy(file, target)


def make_everything() -> None:
    """Data, configs, a run, its model folder, a LoRA run on that, its adapter folder, a receipt."""
    from varlen_lab.config.names import named_config
    from varlen_lab.config.text import render

    lines = []
    for number in range(24):
        turns = [
            {"role": "user", "content": f"Count in steps of {number}."},
            {"role": "assistant", "content": " ".join(str(number * step) for step in range(1, 2 + number * 7 % 19))},
        ]
        lines.append(json.dumps({"messages": turns}))
    Path("data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = named_config("tiny_llama_full_docstrings_e1").replace(
        data_path="data.jsonl",
        model_config=MODEL,
        use_varlen_attn=True,
        max_length=128,
        accumulative_counts=1,
        max_steps=STEPS,
        save_steps=1,
        save_total_limit=-1,
        evaluation_freq=0,
        device="cpu",
        work_dir="run",
    )
    Path("c.py").write_text(render(config), encoding="utf-8")
    of_base = {"model_config": None, "pretrained_model_name_or_path": "base", "work_dir": "lora_run"}
    lora = config.replace(method="lora", lora_r=2, lora_dropout=0.0, **of_base)
    Path("lora.py").write_text(render(lora), encoding="utf-8")
    for words in (
        ["train", "c.py", "--quiet"],
        ["convert", "pth_to_hf", "c.py", f"run/iter_{STEPS}.pth", "base"],
        ["train", "lora.py", "--quiet"],
        ["convert", "pth_to_hf", "lora.py", f"lora_run/iter_{STEPS}.pth", "adapter"],
        ["convert", "merge", "base", "adapter", "merged"],
        ["audit", "--model", "base"],
        ["pack-report", "data.jsonl", "-o", "report"],
        ["check-custom-dataset", "data.jsonl"],
        ["log-dataset", "c.py"],
        ["masks", "--lengths", "2", "3", "-o", "masks.svg"],
    ):
        done = verb(*words)
        if done.code:
            raise RuntimeError(f"{words}: {done}")


# ------------------------------------------------------------------------------------------------- verbs


@dataclass(frozen=True)
class Ran:
    """A command: its exit code, what it printed, and the traceback it ended with, if any."""

    code: int | None
    said: str
    problem: str = ""

    @property
    def sentence(self) -> str:
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else ""


def verb(*words: str) -> Ran:
    """``varlen-lab WORDS``, in this process."""
    from varlen_lab.cli import main

    return called(lambda: main(list(words)))


def called(work: Callable[[], Any]) -> Ran:
    """A call of the library as the command line would make it: an InputError is a sentence and exit code 2."""
    from varlen_lab.errors import InputError

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            found = work()
        except InputError as problem:
            return Ran(problem.exit_code, f"{said.getvalue()}\nerror: {problem}")
        except SystemExit as ending:
            return Ran(ending.code if isinstance(ending.code, int) else 1, said.getvalue())
        except BaseException:
            return Ran(None, said.getvalue(), traceback.format_exc())
    return Ran(found if type(found) is int else 0, said.getvalue())


def judged(ran: Ran, same: Callable[[], bool | str], refusals: tuple[int, ...] = (2,)) -> Outcome:
    """What became of a fault, of a command and of whether its result is the ``same`` (or what of it is not)."""
    if Path(CANARY).exists():
        return Outcome("executed", Path(CANARY).read_text(errors="replace")[:80])
    if ran.problem or "Traceback (most recent" in ran.said:
        return Outcome("traceback", last_line(ran.problem or ran.said))
    if ran.code in refusals:
        short = sum(len(word) for word in ran.sentence.split() if len(word) < 200) < 1200  # a name may be long
        return Outcome("refused", ran.sentence) if ran.sentence and short else Outcome("traceback", ran.said[-300:])
    if ran.code not in (0, None):
        return Outcome("traceback", f"exit code {ran.code}: {ran.said[-300:]}")
    found = same()
    if found is True:
        return Outcome("unharmed")
    what = found if isinstance(found, str) else "another result"
    told = [line for line in ran.said.splitlines() if "UserWarning: " in line or line.startswith("note: ")]
    return Outcome("refused", told[-1]) if told else Outcome("silent", what)


def last_line(text: str) -> str:
    """The exception of a traceback and the last of our lines it passed."""
    lines = text.strip().splitlines()
    ours = [line.strip() for line in lines if "/varlen_lab/" in line and line.strip().startswith("File ")]
    where = ours[-1].split("/varlen_lab/")[-1] if ours else "?"
    return f"{lines[-1][:200]}  ({where})"


# ------------------------------------------------------------------------------------------------- results


def checkpoint_says(path: Path) -> str | None:
    """Hex digits of what a run goes on from, None of a file that is none; folders are read file by file."""
    try:
        return digest_of(of_checkpoint(torch.load(path, map_location="cpu", weights_only=True)))
    except Exception:
        return None


def of_checkpoint(contents: Any) -> dict[str, Any]:
    """The part of a checkpoint that must be the same in a run that was never disturbed."""
    return {name: contents[name] for name in COMPARED}


def digest_of(value: Any) -> str:
    """Hex digits of nested values and tensors."""
    digest = hashlib.sha256()

    def add(one: Any) -> None:
        if isinstance(one, torch.Tensor):
            digest.update(f"{one.dtype} {tuple(one.shape)}".encode())
            digest.update(one.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(one, dict):
            digest.update(f"{{{len(one)}".encode())
            for name, inner in one.items():
                add(name)
                add(inner)
        elif isinstance(one, (list, tuple)):
            digest.update(f"[{len(one)}".encode())
            for inner in one:
                add(inner)
        else:
            digest.update(repr(one).encode("utf-8", "backslashreplace"))

    add(value)
    return digest.hexdigest()


def history_says(path: Path) -> list[tuple[Any, ...]]:
    """Step, loss and learning rate of each line of a history that is whole."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            found.append((record["step"], record["loss"], record["lr"]))
    return found


def files_say(folder: Path, *but: str) -> dict[str, str]:
    """The digest of every file of a folder, by its name from there; None is left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def model_says(folder: Path) -> str:
    """Hex digits of the weights of a model or adapter folder, and of what its other files say."""
    from safetensors.torch import load_file

    weights = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    texts = {name: found for name, found in files_say(folder).items() if name.endswith((".json", ".jinja", ".py"))}
    for name in MANIFESTS:
        texts.pop(name, None)
    return digest_of([weights, texts])


MANIFESTS = ("varlen_lab.json",)  # which have digests, paths and dates of their own


def left_over(folder: Path) -> list[str]:
    """What a run that ended leaves nowhere: drafts and locks."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name.endswith((".partial", ".unfinished", ".lock", ".tmp"))
    )
