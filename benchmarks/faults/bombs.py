"""Files that would run code if anything unpickled, imported or rendered them trustingly: one of every kind, every verb.

What must not happen is the file ``EXECUTED``. To refuse is right, and so is to read the rest and never look at it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import stage as world
from benchmarks.faults.outcomes import Case, Outcome
from benchmarks.faults.stage import CANARY, STEPS, Ran, Stage, verb

CODE = f"open({CANARY!r}, 'a').write('code ran')"


class Bomb:
    """An object whose unpickling leaves the canary."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.call = (function, given)

    def __reduce__(self) -> Any:
        return self.call


def bombs() -> dict[str, Any]:
    """Ways in which a pickle runs code."""
    return {
        "os.system": Bomb(os.system, f"echo system > {CANARY}"),
        "exec": Bomb(exec, CODE),
        "open": Bomb(open, CANARY, "w"),
    }


def pickles(bomb: Any) -> dict[str, bytes]:
    """The same bomb in every wrapping that torch, numpy or pickle opens."""
    import numpy as np
    import torch

    record = {"format": "varlen_lab checkpoint 2", "model": {"x": torch.zeros(2)}, "bomb": bomb}
    found = {"pickle": pickle.dumps(bomb), "pickle of protocol 0": pickle.dumps(bomb, 0)}
    for name, zipped in (("torch", True), ("torch of old", False)):
        body = io.BytesIO()
        torch.save(record, body, _use_new_zipfile_serialization=zipped)
        found[name] = body.getvalue()
    body = io.BytesIO()
    np.save(body, np.array([bomb], dtype=object), allow_pickle=True)
    found["numpy"] = body.getvalue()
    return found


def planted(stage: Stage) -> Iterator[Case]:
    """Every file in every wrapping through every verb that may open it."""
    for bomb in ("os.system", "exec", "open"):
        for wrapping in ("pickle", "pickle of protocol 0", "torch", "torch of old", "numpy"):
            for place, (needs, verbs) in PLACES.items():
                if bomb != "exec" and wrapping not in ("pickle", "torch"):
                    continue  # the other two go the same ways
                for words in verbs:
                    what = f"{bomb} as {wrapping} in {place}: {' '.join(words)}"
                    yield Case(what, partial(opened_pickle, stage, needs, place, bomb, wrapping, words))
    for name, (needs, plant, verbs) in TRAPS.items():
        for words in verbs:
            yield Case(f"{name}: {' '.join(words)}", partial(opened_trap, stage, needs, plant, words))


def opened_pickle(
    stage: Stage, needs: tuple[str, ...], place: str, bomb: str, wrapping: str, words: tuple[str, ...]
) -> Outcome:
    """A pickled bomb in the place of a file."""
    stage.bring(*needs)
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickles(bombs()[bomb])[wrapping])
    if path.suffix == ".bin":  # which are looked for where there is nothing safer
        for other in path.parent.glob("*.safetensors"):
            other.unlink()
    return said_yes(words)


def opened_trap(stage: Stage, needs: tuple[str, ...], plant: Callable[[], Any], words: tuple[str, ...]) -> Outcome:
    """Another kind of file that asks for code to be run."""
    stage.bring(*needs)
    plant()
    return said_yes(words)


def said_yes(words: tuple[str, ...]) -> Outcome:
    """A verb, to whose every question ``y`` is the answer; what it prints may be anything but a traceback."""
    sys.stdin = io.StringIO("y\n" * 20)
    ran = verb(*words)
    if ran.code == 1 and words[0] in ("audit", "check-custom-dataset"):
        ran = Ran(0, ran.said, ran.problem)  # a verdict
    return world.judged(ran, lambda: True)


# ------------------------------------------------------------------------------------------------- pickles

TRAIN = ("train", "c.py", "--quiet", "--cfg-options", "max_steps=1")
FROM_BASE = (*TRAIN, "model_config=None", "pretrained_model_name_or_path='base'", "work_dir='again'")
AUDIT = ("audit", "--model", "base")
MERGE = ("convert", "merge", "base", "adapter", "new")
PTH = f"run/iter_{STEPS}.pth"
CONVERT = ("convert", "pth_to_hf", "c.py", PTH, "new")
RESUME = ("train", "c.py", "--quiet", "--resume")
COMPARE = ("compare", "c.py", "--from", PTH, "--quiet", "--json")
OWN = ("copy-cfg", "--model", "base", ".")
LORA = ("train", "lora.py", "--quiet")
MODEL_VERBS = (FROM_BASE, AUDIT, MERGE, OWN)
RUN = ("run", "c.py", "data.jsonl")
MODEL = ("base", "adapter", "c.py", "data.jsonl")
DATA = ("c.py", "data.jsonl")

Words = tuple[str, ...]
PLACES: dict[str, tuple[tuple[str, ...], tuple[Words, ...]]] = {
    PTH: (RUN, (RESUME, (*RESUME, PTH), CONVERT, COMPARE)),
    "run/history.jsonl": (RUN, (RESUME,)),
    "folder/run.pth": (RUN, ((*RESUME, "folder"), ("convert", "pth_to_hf", "c.py", "folder", "new"))),
    "base/pytorch_model.bin": (MODEL, MODEL_VERBS),
    "base/model.safetensors": (MODEL, MODEL_VERBS),
    "base/optimizer.pt": (MODEL, (FROM_BASE, MERGE)),
    "base/training_args.bin": (MODEL, (FROM_BASE, MERGE)),
    "base/tokenizer.json": (MODEL, MODEL_VERBS),
    "base/tokenizer.pkl": (MODEL, (FROM_BASE,)),
    "base/config.json": (MODEL, MODEL_VERBS),
    "base/generation_config.json": (MODEL, (MERGE, FROM_BASE)),
    "base/chat_template.jinja": (MODEL, (FROM_BASE, MERGE)),
    "adapter/adapter_model.bin": (MODEL, (MERGE,)),
    "adapter/adapter_model.safetensors": (MODEL, (MERGE,)),
    "adapter/adapter_config.json": (MODEL, (MERGE,)),
    "adapter/varlen_lab.json": (MODEL, (MERGE,)),
    "c.py": (DATA, (TRAIN, ("audit", "c.py"), ("pack-report", "c.py"))),
    "data.jsonl": (DATA, (TRAIN, ("pack-report", "data.jsonl"), ("log-dataset", "data.jsonl"))),
    **{
        f"bomb.{ending}": ((), (("pack-report", f"bomb.{ending}"), ("check-custom-dataset", f"bomb.{ending}")))
        for ending in ("parquet", "csv", "json", "arrow", "pkl", "npy", "pt")
    },
    "folder/data.pkl": ((), (("pack-report", "folder"), ("check-custom-dataset", "folder"))),
    "model.gguf": (DATA, (("audit", "--model", "model.gguf"), ("copy-cfg", "--model", "model.gguf", "."))),
}


# ------------------------------------------------------------------------------------------------- other traps


def changed(path: str, **values: Any) -> None:
    """A JSON file with other values in it."""
    found = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**found, **values}))


def code_in(folder: str, *names: str) -> None:
    """Python files that leave the canary when they are imported."""
    for name in names:
        Path(folder, f"{name}.py").write_text(CODE.replace("open(", "open(") + "\nclass Model: pass\n")


def remote_model() -> None:
    code_in("base", "modeling_x", "configuration_x")
    auto = {"AutoConfig": "configuration_x.Model", "AutoModelForCausalLM": "modeling_x.Model"}
    changed("base/config.json", auto_map=auto, model_type="x_of_no_one")


def remote_model_of_known_type() -> None:
    code_in("base", "modeling_x")
    changed("base/config.json", auto_map={"AutoModelForCausalLM": "modeling_x.Model"})


def remote_tokenizer() -> None:
    code_in("base", "tokenization_x")
    classes = ["tokenization_x.Model", "tokenization_x.Model"]
    changed("base/tokenizer_config.json", auto_map={"AutoTokenizer": classes}, tokenizer_class="Model")


def remote_generation() -> None:
    Path("base/custom_generate").mkdir()
    code_in("base/custom_generate", "generate")


def remote_kernel() -> None:
    changed("base/config.json", _attn_implementation="someone/kernels", attn_implementation="someone/kernels")


def template(text: str) -> Callable[[], None]:
    """A model folder whose chat template wants out of its sandbox."""

    def plant() -> None:
        Path("base/chat_template.jinja").write_text(text)

    return plant


ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch " + CANARY + "').read() }}",
    "self": "{{ self.__init__.__globals__.__builtins__.open('" + CANARY + "', 'w') }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "attr": "{{ messages|attr('__class__')|attr('__base__')|attr('__subclasses__')() }}",
    "import": "{% import '" + CANARY + "' as x %}",
    "include": "{% include '/etc/passwd' %}",
    "raise": "{{ raise_exception.__globals__['__builtins__']['open']('" + CANARY + "', 'w') }}",
    "strftime": "{{ strftime_now.__globals__ }}",
    "without end": "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
    "large": "{{ 'x' * 10**10 }}",
}


def config_says(line: str) -> Callable[[], None]:
    """A config file that is more than settings."""

    def plant() -> None:
        Path("c.py").write_text(Path("c.py").read_text() + f"\n{line}\n")

    return plant


LINES = {
    "import": f"import os\nos.system('touch {CANARY}')",
    "call": f"__import__('os').system('touch {CANARY}')",
    "value": f"lr = __import__('os').system('touch {CANARY}')",
    "open": f"lr = open('{CANARY}', 'w')",
    "f-string": "lr = f'{" + CODE.replace("'", '"') + "}'",
    "lambda": f"lr = (lambda: {CODE})()",
    "list": f"data_path = [{CODE} for _ in range(1)]",
    "walrus": f"lr = (x := {CODE})",
    "decorator": f"@{CODE}\ndef f(): pass",
    "default": f"def f(x={CODE}): pass",
    "class": f"class A:\n    x = {CODE}",
    "with": f"with {CODE}: pass",
    "try": f"try:\n    {CODE}\nexcept Exception: pass",
    "exec": f"exec({CODE!r})",
    "star": f"data_path = [*{CODE}]",
}


def dataset_script() -> None:
    """A folder whose dataset script ``datasets`` once ran."""
    Path("folder").mkdir()
    code_in("folder", "folder", "dataset")
    Path("folder/dataset_infos.json").write_text("{}")
    shutil.copy("data.jsonl", "folder/train.jsonl")


def saved_dataset() -> None:
    """What ``save_to_disk`` writes, with a module of its own in it."""
    from datasets import Dataset

    Dataset.from_dict({"text": ["one", "two"]}).save_to_disk("folder")
    code_in("folder", "mine")
    info = json.loads(Path("folder/dataset_info.json").read_text())
    info["features"]["text"] = {"_type": "mine.Model", "dtype": "string"}
    Path("folder/dataset_info.json").write_text(json.dumps(info))


def extension(file: str) -> Callable[[], None]:
    """Arrow or Parquet whose column has a type that is a pickle."""

    def plant() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        known = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(bomb())}
        column = pa.field("text", pa.string(), metadata=known)
        table = pa.table([pa.array(["one", "two"])], schema=pa.schema([column]))
        if file.endswith("parquet"):
            pq.write_table(table, file)
        else:
            with pa.OSFile(file, "wb") as out, pa.ipc.new_stream(out, table.schema) as stream:
                stream.write_table(table)

    return plant


def bomb() -> Any:
    return bombs()["exec"]


def features(file: str) -> Callable[[], None]:
    """Parquet that names a class of ``datasets`` features, and pandas metadata with a pickle."""

    def plant() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        info = {"info": {"features": {"text": {"_type": "os.system", "dtype": f"touch {CANARY}"}}}}
        pickled = pickle.dumps(bomb()).hex()
        pandas = json.dumps({"columns": [{"name": "text", "pandas_type": "object", "metadata": {"pickle": pickled}}]})
        table = pa.table({"text": ["one", "two"]})
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info), "pandas": pandas}), file)

    return plant


def zipped_bomb() -> None:
    """A zip of pickles in the place of a checkpoint, with names that lead out of it."""
    with zipfile.ZipFile(PTH, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bomb()))
        archive.writestr("../../archive/code.py", CODE)
        archive.writestr("archive/version", "3\n")


def script_checkpoint() -> None:
    """What ``torch.jit.save`` writes: code in place of a checkpoint."""
    import torch

    class Adds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    torch.jit.save(torch.jit.script(Adds()), PTH)


def zero_shards(name: str) -> Callable[[], None]:
    """A checkpoint folder as DeepSpeed's, one of whose shards is a pickle that runs code."""

    def plant() -> None:
        import torch

        from varlen_lab.training.checkpoint import save_checkpoint

        state = torch.load(f"run/iter_{STEPS}.pth", weights_only=True)
        for key in ("format", "model", "optimizer"):
            state.pop(key)
        folder = Path("folder/zero")
        folder.mkdir(parents=True)
        save_checkpoint(folder.parent / "run.pth", {**state, "engine": "zero", "zero_stage": 2, "processes": 1})
        for each in ("mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"):
            torch.save(Bomb(exec, CODE) if name in each else {"module": {}}, folder / each)
        (folder.parent / "latest").write_text("zero")

    return plant


FOLDER = ((*RESUME, "folder"), ("convert", "pth_to_hf", "c.py", "folder", "new"))
DATA_VERBS = (("pack-report", "folder"), ("check-custom-dataset", "folder"), ("log-dataset", "folder"))
TRAPS: dict[str, tuple[tuple[str, ...], Callable[[], Any], tuple[Words, ...]]] = {
    "a model with code": (MODEL, remote_model, MODEL_VERBS),
    "a known model with code": (MODEL, remote_model_of_known_type, MODEL_VERBS),
    "a tokenizer with code": (MODEL, remote_tokenizer, (FROM_BASE, MERGE, AUDIT)),
    "generation with code": (MODEL, remote_generation, (FROM_BASE, MERGE, AUDIT)),
    "kernels of the hub": (MODEL, remote_kernel, MODEL_VERBS),
    **{f"template: {name}": (MODEL, template(text), (FROM_BASE, MERGE)) for name, text in ESCAPES.items()},
    **{
        f"config: {name}": (DATA, config_says(line), (TRAIN, ("pack-report", "c.py"), ("audit", "c.py")))
        for name, line in LINES.items()
    },
    "a dataset script": (DATA, dataset_script, DATA_VERBS),
    "a saved dataset with a class": (DATA, saved_dataset, DATA_VERBS),
    "a pickled type in parquet": ((), extension("x.parquet"), (("pack-report", "x.parquet"),)),
    "a pickled type in arrow": ((), extension("x.arrow"), (("pack-report", "x.arrow"),)),
    "features in parquet": ((), features("x.parquet"), (("pack-report", "x.parquet"), ("log-dataset", "x.parquet"))),
    "a zip of pickles": (RUN, zipped_bomb, (RESUME, CONVERT, COMPARE)),
    "a script for a checkpoint": (RUN, script_checkpoint, (RESUME, CONVERT, COMPARE)),
    "a ZeRO model shard": (RUN, zero_shards("model"), FOLDER),
    "a ZeRO optimizer shard": (RUN, zero_shards("optim"), FOLDER),
}
