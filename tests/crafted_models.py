"""Model folders, adapters and ``model_config`` settings as nobody should write them: damaged, lying, with code in them.

``FOLDERS``, ``ADAPTERS``   name -> a function that spoils a folder of ``tiny_folder`` or ``tiny_adapter``, in place
``MODEL_CONFIGS``           name -> a ``model_config`` of a config file
``BOMBS``                   as ``FOLDERS``: code in every kind of file that a model folder may have

Each gives one InputError, or a model; nothing in it is run. The file that a bomb would make is ``bomb_mark(folder)``.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

Spoil = Callable[[Path], object]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL = {"model_type": "llama", "vocab_size": 2048, "num_hidden_layers": 2, "max_position_embeddings": 4096, **SIZES}
HUGE = 10**400
SURROGATE = "\ud800"
DEEP = "[" * 100_000
MARK = "bomb_went_off"


def tiny_folder(folder: Path) -> Path:
    """A whole model folder: a tiny Llama with weights in safetensors, and the built-in tokenizer."""
    from varlen_lab.documents.builtin import builtin_tokenizer
    from varlen_lab.models.building import tiny

    tiny("llama", **SIZES).save_pretrained(folder)
    builtin_tokenizer().save_pretrained(folder)
    return folder


def tiny_adapter(folder: Path, base: Path) -> Path:
    """A LoRA adapter of the model in ``base``, as peft saves it."""
    import peft

    from varlen_lab.models.loading import load_model

    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(load_model(base, "plain"), lora).save_pretrained(folder)
    return folder


def write(name: str, body: str | bytes, folder: Path) -> None:
    """A file of the folder, made or replaced."""
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass"))


def change(name: str, values: dict[str, Any], folder: Path) -> None:
    """Other values in a JSON file of the folder; ``...`` takes a key out."""
    facts = json.loads((folder / name).read_text(encoding="utf-8")) | values
    write(name, json.dumps({key: value for key, value in facts.items() if value is not ...}), folder)


def config(**values: Any) -> Spoil:
    """Other values in config.json."""
    return partial(change, "config.json", values)


def text(body: str | bytes, name: str = "config.json") -> Spoil:
    """Other text in a file."""
    return partial(write, name, body)


def linked(name: str, target: str, folder: Path) -> None:
    """A symbolic link in place of a file."""
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def directory(name: str, folder: Path) -> None:
    """A folder in place of a file."""
    (folder / name).unlink()
    (folder / name).mkdir()


# ---- weights


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the numbers behind it."""
    body = path.read_bytes()
    length = struct.unpack("<Q", body[:8])[0]
    return json.loads(body[8 : 8 + length]), body[8 + length :]


def reheaded(edit: Callable[[dict[str, Any]], Any], folder: Path, name: str = "model.safetensors") -> None:
    """A safetensors file with another header before the same numbers; ``edit`` changes it, or gives another."""
    header, numbers = header_of(folder / name)
    edited = edit(header)
    body = edited if isinstance(edited, bytes) else json.dumps(header if edited is None else edited).encode()
    write(name, struct.pack("<Q", len(body)) + body + numbers, folder)


def entry(name: str = "model.safetensors", **values: Any) -> Spoil:
    """Other facts about the first tensor of a header."""
    return partial(reheaded, lambda header: next(v for k, v in header.items() if k[0] != "_").update(values), name=name)


def saved(edit: Callable[[dict[str, torch.Tensor]], Any], folder: Path) -> None:
    """Other weights in model.safetensors."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(share: float, folder: Path, name: str = "model.safetensors") -> None:
    """A file of which the end is missing."""
    body = (folder / name).read_bytes()
    write(name, body[: int(len(body) * share)], folder)


def sharded(index: Any, folder: Path) -> None:
    """The weights under an index that says ``index``; None: a right one, whose second shard is not there."""
    from safetensors.torch import load_file

    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    where = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": where} if index is None else index
    write("model.safetensors.index.json", index if isinstance(index, str) else json.dumps(index), folder)


def as_bin(make: Callable[[dict[str, torch.Tensor], Path], object], folder: Path) -> None:
    """``pytorch_model.bin`` in place of safetensors, as ``make(weights, path)`` writes it."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    make(weights, folder / "pytorch_model.bin")


# ---- code


class Bomb:
    """What unpickling would run: it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


def bomb_mark(folder: Path) -> Path:
    """The file that is there when something of the folder was run."""
    return folder.parent / f"{folder.name}-{MARK}"


def pickled(folder: Path) -> bytes:
    """A pickle that runs a command."""
    return pickle.dumps(Bomb(bomb_mark(folder)), protocol=2)


def bomb(name: str, folder: Path, plain: bool = False) -> None:
    """A file as ``torch.save`` writes it (``plain``: as pickle does) that runs a command when it is unpickled."""
    (folder / name).unlink(missing_ok=True)
    if plain:
        (folder / name).write_bytes(pickled(folder))
    else:
        torch.save({"weight": torch.zeros(2), "bomb": Bomb(bomb_mark(folder))}, folder / name)


def module(name: str, folder: Path) -> None:
    """A Python file that runs when it is imported, whatever is asked of it."""
    code = f"open({str(bomb_mark(folder))!r}, 'w').close()\n"
    write(name, code + "class Config: pass\nclass Model: pass\nclass Tokenizer: pass\n", folder)


def with_code(file: str, auto_map: Any, folder: Path, **values: Any) -> None:
    """An ``auto_map`` in a JSON file of the folder that names a module beside it."""
    module("modeling_x.py", folder)
    change(file, {"auto_map": auto_map, **values}, folder)


ALL_CODE = {
    "AutoConfig": "modeling_x.Config",
    "AutoModel": "modeling_x.Model",
    "AutoModelForCausalLM": "modeling_x.Model",
    "AutoTokenizer": ["modeling_x.Tokenizer", "modeling_x.Tokenizer"],
}


def code_everywhere(folder: Path) -> None:
    """A model of a type that only its own code knows: config, model and tokenizer."""
    with_code("config.json", ALL_CODE, folder, model_type="x_model", architectures=["Model"])
    with_code("tokenizer_config.json", ALL_CODE, folder, tokenizer_class="XTokenizer")


def custom_generate(folder: Path) -> None:
    """The file that transformers runs for ``generate`` where it is trusted."""
    (folder / "custom_generate").mkdir()
    module("custom_generate/generate.py", folder)


ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch %s') }}"


def escape(folder: Path, name: str = "chat_template.jinja") -> None:
    """A chat template that looks for a way out of its sandbox."""
    write(name, ESCAPE % bomb_mark(folder), folder)


def vocabulary(folder: Path) -> None:
    """A tokenizer whose class reads a pickled vocabulary."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    bomb("vocab.pkl", folder, plain=True)
    write("tokenizer_config.json", '{"tokenizer_class": "TransfoXLTokenizer"}', folder)


def module_as_config(folder: Path) -> None:
    """Values of config.json that name a module of the folder in every other way that we know of."""
    module("evil.py", folder)
    change("config.json", {"quantization_config": {"quant_method": "evil"}, "library_name": "evil"}, folder)


BOMBS: dict[str, Spoil] = {
    "auto_map of config.json, known type": partial(with_code, "config.json", ALL_CODE),
    "auto_map of config.json, unknown type": code_everywhere,
    "auto_map of a layout": partial(with_code, "config.json", ALL_CODE, model_type="internlm"),
    "auto_map to another repository": partial(
        with_code, "config.json", {"AutoConfig": "nobody/x--modeling_x.Config"}, model_type="x_model"
    ),
    "auto_map of the tokenizer": partial(with_code, "tokenizer_config.json", ALL_CODE, tokenizer_class="XTokenizer"),
    "auto_map of the tokenizer, as a list": partial(
        with_code, "tokenizer_config.json", ["modeling_x.Tokenizer", None], tokenizer_class="XTokenizer"
    ),
    "auto_map of the tokenizer, known class": partial(with_code, "tokenizer_config.json", ALL_CODE),
    "custom_generate": custom_generate,
    "a module that config.json names": module_as_config,
    "pytorch_model.bin": lambda folder: as_bin(lambda weights, path: bomb(path.name, folder), folder),
    "pytorch_model.bin, plain pickle": lambda folder: as_bin(
        lambda weights, path: bomb(path.name, folder, plain=True), folder
    ),
    "pytorch_model.bin beside safetensors": partial(bomb, "pytorch_model.bin"),
    "model.safetensors that is a pickle": partial(bomb, "model.safetensors", plain=True),
    "model.safetensors that torch saved": partial(bomb, "model.safetensors"),
    "training_args.bin and optimizer.pt": lambda folder: [
        bomb(name, folder) for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt")
    ],
    "config.json that is a pickle": lambda folder: write("config.json", pickled(folder), folder),
    "tokenizer.json that is a pickle": lambda folder: write("tokenizer.json", pickled(folder), folder),
    "tokenizer.model that is a pickle": lambda folder: [
        (folder / "tokenizer.json").unlink(),
        write("tokenizer.model", pickled(folder), folder),
        change("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}, folder),
    ],
    "vocab.pkl": vocabulary,
    "generation_config.json that is a pickle": lambda folder: write("generation_config.json", pickled(folder), folder),
    "chat_template.jinja": escape,
}

# ---- whole folders that lie


def rope(**values: Any) -> Spoil:
    """Other rope parameters."""
    return config(rope_parameters={"rope_type": "default", "rope_theta": 10000.0} | values)


FOLDERS: dict[str, Spoil] = {
    # config.json as a file
    "config.json: empty": text(""),
    "config.json: no JSON": text("{"),
    "config.json: a list": text("[]"),
    "config.json: a number": text("5"),
    "config.json: null": text("null"),
    "config.json: nested": text(DEEP),
    "config.json: nested inside": text('{"model_type": ' + DEEP),
    "config.json: Latin-1": text('{"model_type": "llama", "name": "é"}'.encode("latin-1")),
    "config.json: NaN": text('{"model_type": "llama", "rms_norm_eps": NaN}'),
    "config.json: a lone surrogate": text('{"model_type": "\\ud800"}'),
    "config.json: a surrogate as a key": text('{"model_type": "llama", "\\ud800": "\\udfff"}'),
    "config.json: thousands of digits": text('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}"),
    "config.json: a folder": partial(directory, "config.json"),
    "config.json: a link to nowhere": partial(linked, "config.json", "nowhere"),
    "config.json: a link to itself": partial(linked, "config.json", "config.json"),
    "config.json: a zero byte": text(b'{"model_type": "llama\x00"}'),
    # its words
    "model_type: none": config(model_type=...),
    "model_type: null": config(model_type=None),
    "model_type: a list": config(model_type=["llama"]),
    "model_type: an object": config(model_type={}),
    "model_type: unknown": config(model_type="lama"),
    "model_type: an encoder": config(model_type="bert"),
    "model_type: a picture's": config(model_type="clip"),
    "model_type: a layout's, without code": config(model_type="internlm"),
    "model_type: a layout's, with code": config(model_type="internlm", auto_map={}),
    "model_type: 5": config(model_type=5),
    "architectures: a word": config(architectures="LlamaForCausalLM"),
    "architectures: numbers": config(architectures=[5]),
    "architectures: unknown": config(architectures=["Bomb"]),
    "architectures: null": config(architectures=None),
    "auto_map: a list": config(auto_map=["a"]),
    "auto_map: numbers": config(auto_map={"AutoModelForCausalLM": 5, "AutoConfig": 5}),
    "auto_map: a word": config(auto_map="AutoConfig AutoModelForCausalLM"),
    "auto_map: null": config(auto_map=None),
    "dtype: unknown": config(dtype="float99"),
    "dtype: whole numbers": config(dtype="int8"),
    "dtype: a number": config(dtype=5),
    "dtype: a list": config(dtype=["float32"]),
    "dtype: a name of torch that is none": config(dtype="nn"),
    "torch_dtype: an object": config(dtype=..., torch_dtype={"a": "float32"}),
    "quantization_config: a word": config(quantization_config="gptq"),
    "quantization_config: an empty object": config(quantization_config={}),
    "quantization_config: unknown": config(quantization_config={"quant_method": "nope"}),
    "quantization_config: gptq": config(quantization_config={"quant_method": "gptq", "bits": "x"}),
    "hidden_act: unknown": config(hidden_act="nope"),
    "hidden_act: a number": config(hidden_act=5),
    "attn_implementation: of the hub": config(attn_implementation="kernels-community/flash-attn"),
    "_attn_implementation: unknown": config(_attn_implementation="nope"),
    "num_labels: huge": config(num_labels=10**9),
    "id2label: a list": config(id2label=[1]),
    "text_config: an object": config(text_config={"model_type": "llama"}),
    "transformers_version: a number": config(transformers_version=5),
    "per_layer_config: a word": config(per_layer_config="x"),
    "tie_word_embeddings: a word": config(tie_word_embeddings="yes"),
    "use_cache: a word": config(use_cache="x"),
    # its numbers
    **{
        f"{name}: {str(value)[:20]}": config(**{name: value})
        for name, values in {
            "hidden_size": ("64", -64, 0, True, 64.5, [64], None, 33, 10**12, HUGE),
            "num_hidden_layers": ("2", -1, 0, 1.5, None, 3, 10**9),
            "vocab_size": (-1, 0, "2048", 2047, 10**13, None),
            "num_attention_heads": (0, -4, 7, "4", None, 10**9),
            "num_key_value_heads": (0, 3, -2, "2", None),
            "head_dim": (0, -8, 15, "8", 10**9),
            "intermediate_size": (0, -1, "x", 10**14),
            "max_position_embeddings": (-1, 0, "many", None, 10**18),
            "rms_norm_eps": ("x", None, -1.0),
            "initializer_range": ("x", -1),
            "attention_dropout": ("x", 2.0, -1.0),
            "pad_token_id": (10**9, -5, "x", 1.5),
            "eos_token_id": (["a"], {}, HUGE),
            "sliding_window": (-1, "x"),
            "pretraining_tp": (0, "x"),
        }.items()
        for value in values
    },
    "rope: a word": config(rope_parameters="x"),
    "rope: empty": config(rope_parameters={}),
    "rope: unknown": rope(rope_type="nope"),
    "rope: theta 0": rope(rope_theta=0),
    "rope: theta a word": rope(rope_theta="x"),
    "rope: yarn without a factor": rope(rope_type="yarn"),
    "rope: linear by 0": rope(rope_type="linear", factor=0),
    "rope: longrope with lists of another length": rope(
        rope_type="longrope", short_factor=[1.0], long_factor=[1.0], original_max_position_embeddings=16
    ),
    "rope: llama3 without its factors": rope(rope_type="llama3", factor=8.0),
    "rope: a part below 0": rope(partial_rotary_factor=-1),
    "layer_types: too many": config(layer_types=["full_attention"] * 5),
    "layer_types: unknown": config(layer_types=["nope", "nope"]),
    # model.safetensors
    "weights: empty file": text(b"", "model.safetensors"),
    "weights: 7 bytes": text(b"1234567", "model.safetensors"),
    "weights: noise": text(bytes(range(256)) * 40, "model.safetensors"),
    "weights: a header of 2^60 bytes": text(struct.pack("<Q", 2**60) + b"{}", "model.safetensors"),
    "weights: a header without an end": text(struct.pack("<Q", 100) + b"{" * 100, "model.safetensors"),
    "weights: a nested header": partial(reheaded, lambda header: b'{"a": ' + DEEP.encode()),
    "weights: a header that is a list": partial(reheaded, lambda header: b"[]"),
    "weights: an empty header": partial(reheaded, lambda header: b"{}"),
    "weights: entries that are numbers": partial(reheaded, lambda header: dict.fromkeys(header, 5)),
    "weights: metadata that is a list": partial(reheaded, lambda header: header | {"__metadata__": [1]}),
    "weights: no metadata": partial(reheaded, lambda header: header.pop("__metadata__") and None),
    "weights: another format": partial(reheaded, lambda header: header | {"__metadata__": {"format": "nope"}}),
    "weights: dtype unknown": entry(dtype="F99"),
    "weights: dtype a number": entry(dtype=5),
    "weights: dtype wider": entry(dtype="F64"),
    "weights: dtype that is whole numbers": entry(dtype="I32"),
    "weights: shape another": entry(shape=[7]),
    "weights: shape below 0": entry(shape=[-1, -64]),
    "weights: shape huge": entry(shape=[2**62, 2**62]),
    "weights: shape of words": entry(shape=["a"]),
    "weights: offsets behind the end": entry(data_offsets=[10**9, 10**9 + 4]),
    "weights: offsets turned round": entry(data_offsets=[100, 0]),
    "weights: offsets below 0": entry(data_offsets=[-4, 0]),
    "weights: offsets one": entry(data_offsets=[0]),
    "weights: offsets that overlap": partial(
        reheaded,
        lambda header: [one.update(data_offsets=[0, 128]) for one in header.values() if "shape" in one] and None,
    ),
    "weights: a name that is a surrogate": partial(
        reheaded,
        lambda header: json.dumps(
            header | {SURROGATE: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
        ).encode(),
    ),
    "weights: one missing": partial(saved, lambda weights: weights.pop("model.norm.weight")),
    "weights: a layer missing": partial(
        saved, lambda weights: [weights.pop(name) for name in list(weights) if ".layers.1." in name]
    ),
    "weights: the head missing": partial(saved, lambda weights: weights.pop("lm_head.weight")),
    "weights: all missing": partial(saved, lambda weights: weights.clear()),
    "weights: under other names": partial(
        saved, lambda weights: weights.update({f"x.{name}": weights.pop(name) for name in list(weights)})
    ),
    "weights: one more": partial(saved, lambda weights: weights.update(more=torch.zeros(3))),
    "weights: of another shape": partial(saved, lambda weights: weights.update({"model.norm.weight": torch.ones(7)})),
    "weights: no numbers": partial(saved, lambda weights: weights["model.norm.weight"].fill_(torch.nan)),
    "weights: cut by a byte": partial(cut, 0.999999),
    "weights: cut in half": partial(cut, 0.5),
    "weights: cut in the header": partial(cut, 0.001),
    "weights: a folder": partial(directory, "model.safetensors"),
    "weights: a link to nowhere": partial(linked, "model.safetensors", "nowhere"),
    "weights: none": lambda folder: (folder / "model.safetensors").unlink(),
    "index: a shard missing": partial(sharded, None),
    "index: no JSON": partial(sharded, "{"),
    "index: a list": partial(sharded, []),
    "index: no weight_map": partial(sharded, {}),
    "index: a weight_map that is a list": partial(sharded, {"weight_map": [1]}),
    "index: numbers": partial(sharded, {"weight_map": {"a": 5}}),
    "index: empty": partial(sharded, {"metadata": {}, "weight_map": {}}),
    "index: a file above": partial(sharded, {"metadata": {}, "weight_map": {"a": "../x.safetensors"}}),
    "index: names that its shard has not": partial(
        sharded, {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    ),
    "index: metadata a list": partial(
        sharded, {"metadata": [1], "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    ),
    # pytorch_model.bin
    ".bin: noise": partial(as_bin, lambda weights, path: path.write_bytes(bytes(range(256)) * 40)),
    ".bin: empty": partial(as_bin, lambda weights, path: path.write_bytes(b"")),
    ".bin: an archive of nothing": partial(as_bin, lambda weights, path: zipfile.ZipFile(path, "w").close()),
    ".bin: a list": partial(as_bin, lambda weights, path: torch.save(list(weights.values()), path)),
    ".bin: a number": partial(as_bin, lambda weights, path: torch.save(5, path)),
    ".bin: values that are no tensors": partial(
        as_bin, lambda weights, path: torch.save(dict.fromkeys(weights, "x"), path)
    ),
    ".bin: names that are numbers": partial(
        as_bin, lambda weights, path: torch.save(dict(enumerate(weights.values())), path)
    ),
    ".bin: whole": partial(as_bin, torch.save),
    # generation_config.json
    "generation_config.json: no JSON": text("{", "generation_config.json"),
    "generation_config.json: a list": text("[]", "generation_config.json"),
    "generation_config.json: nested": text(DEEP, "generation_config.json"),
    "generation_config.json: words": text('{"max_new_tokens": "x", "temperature": "hot"}', "generation_config.json"),
    "generation_config.json: Latin-1": text(b'{"a": "\xe9"}', "generation_config.json"),
    "generation_config.json: a folder": partial(directory, "generation_config.json"),
    # the tokenizer
    "tokenizer.json: empty": text("", "tokenizer.json"),
    "tokenizer.json: no JSON": text("{", "tokenizer.json"),
    "tokenizer.json: a list": text("[]", "tokenizer.json"),
    "tokenizer.json: an empty object": text("{}", "tokenizer.json"),
    "tokenizer.json: nested": text(DEEP, "tokenizer.json"),
    "tokenizer.json: cut": partial(cut, 0.5, name="tokenizer.json"),
    "tokenizer.json: Latin-1": text(b"{\xe9}", "tokenizer.json"),
    "tokenizer.json: no model": partial(change, "tokenizer.json", {"model": {}}),
    "tokenizer.json: a vocabulary of none": partial(
        change, "tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": []}}
    ),
    "tokenizer.json: added tokens that are words": partial(change, "tokenizer.json", {"added_tokens": ["a"]}),
    "tokenizer.json: an id that no model has": partial(
        change,
        "tokenizer.json",
        {
            "added_tokens": [
                {
                    "id": 10**7,
                    "content": "<x>",
                    "special": True,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                }
            ]
        },
    ),
    "tokenizer.json: a folder": partial(directory, "tokenizer.json"),
    "tokenizer.json: a link to nowhere": partial(linked, "tokenizer.json", "nowhere"),
    "tokenizer.json: none": lambda folder: (folder / "tokenizer.json").unlink(),
    "tokenizer_config.json: no JSON": text("{", "tokenizer_config.json"),
    "tokenizer_config.json: a list": text("[]", "tokenizer_config.json"),
    "tokenizer_config.json: null": text("null", "tokenizer_config.json"),
    "tokenizer_config.json: nested": text(DEEP, "tokenizer_config.json"),
    "tokenizer_config.json: none": lambda folder: (folder / "tokenizer_config.json").unlink(),
    **{
        f"tokenizer_config.json: {name} = {str(value)[:20]!r}": partial(change, "tokenizer_config.json", {name: value})
        for name, values in {
            "tokenizer_class": (5, "Nope", ["LlamaTokenizer"], "LlamaTokenizer", "BertTokenizer", ""),
            "auto_map": (5, [], ["a"], {"AutoTokenizer": 5}, {"AutoTokenizer": []}, "AutoTokenizer"),
            "chat_template": (5, "{% if", "{{ 1/0 }}", ["a"], {"a": 1}, SURROGATE),
            "model_max_length": ("x", -1, HUGE),
            "added_tokens_decoder": ("x", {"a": 1}, {"5": 5}, {"-1": {"content": "x"}}),
            "bos_token": (5, {"content": 5}, ["a"], SURROGATE, "not in the vocabulary"),
            "eos_token": (None, {}, 7),
            "extra_special_tokens": ("x", {"a": 5}, [5]),
            "padding_side": (5, "up"),
            "backend": ("nope",),
        }.items()
        for value in values
    },
    "special_tokens_map.json: no JSON": text("{", "special_tokens_map.json"),
    "special_tokens_map.json: a list": text("[]", "special_tokens_map.json"),
    "chat_template.jinja: no template": text("{% if", "chat_template.jinja"),
    "chat_template.jinja: Latin-1": text(b"\xe9", "chat_template.jinja"),
    "chat_template.jinja: a folder": partial(directory, "chat_template.jinja"),
    # other files
    "adapter_config.json beside a model": text(
        '{"base_model_name_or_path": "nobody/x", "peft_type": "LORA"}', "adapter_config.json"
    ),
    "adapter_config.json that is no JSON": text("{", "adapter_config.json"),
    "an adapter alone": lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
}


def adapter_config(**values: Any) -> Spoil:
    """Other values in adapter_config.json."""
    return partial(change, "adapter_config.json", values)


ADAPTER_WEIGHTS = "adapter_model.safetensors"


def adapter_bin(make: Callable[[Path], object], folder: Path) -> None:
    """``adapter_model.bin`` in place of safetensors."""
    (folder / ADAPTER_WEIGHTS).unlink()
    make(folder / "adapter_model.bin")


ADAPTERS: dict[str, Spoil] = {
    "config: empty": text("", "adapter_config.json"),
    "config: no JSON": text("{", "adapter_config.json"),
    "config: a list": text("[]", "adapter_config.json"),
    "config: null": text("null", "adapter_config.json"),
    "config: nested": text(DEEP, "adapter_config.json"),
    "config: Latin-1": text(b'{"a": "\xe9"}', "adapter_config.json"),
    "config: a folder": partial(directory, "adapter_config.json"),
    **{
        f"{name} = {str(value)[:20]!r}": adapter_config(**{name: value})
        for name, values in {
            "peft_type": (..., "NOPE", 5, ["LORA"], "PREFIX_TUNING", "IA3"),
            "task_type": ("NOPE", 5, "SEQ_CLS"),
            "r": (0, -1, "x", 10**7, 3, None),
            "lora_alpha": ("x", None, 1e400 and 10**30),
            "lora_dropout": ("x", 2.0, -1),
            "target_modules": ("x", 5, [], [5], ["nope"], None, "(", {"a": 1}),
            "base_model_name_or_path": (5, None, ["a"], SURROGATE),
            "auto_mapping": ({"base_model_class": "x", "parent_library": "evil"}, 5),
            "megatron_config": ({"a": 1},),
            "modules_to_save": (["nope"], 5),
            "rank_pattern": ({"q_proj": "x"}, 5),
            "layers_to_transform": ([99], "x"),
            "layer_replication": ([[0, 99]], "x"),
            "bias": ("nope", 5),
            "init_lora_weights": ("nope", "corda", 5),
            "use_dora": (True, "x"),
            "not_a_field": (1,),
            "fan_in_fan_out": (True,),
        }.items()
        for value in values
    },
    "weights: empty file": text(b"", ADAPTER_WEIGHTS),
    "weights: noise": text(bytes(range(256)) * 9, ADAPTER_WEIGHTS),
    "weights: a header of 2^60 bytes": text(struct.pack("<Q", 2**60) + b"{}", ADAPTER_WEIGHTS),
    "weights: a nested header": partial(reheaded, lambda header: b'{"a": ' + DEEP.encode(), name=ADAPTER_WEIGHTS),
    "weights: cut": partial(cut, 0.5, name=ADAPTER_WEIGHTS),
    "weights: dtype unknown": partial(
        reheaded,
        lambda header: next(v for k, v in header.items() if k[0] != "_").update(dtype="F99"),
        name=ADAPTER_WEIGHTS,
    ),
    "weights: none": lambda folder: (folder / ADAPTER_WEIGHTS).unlink(),
    "weights: a folder": partial(directory, ADAPTER_WEIGHTS),
    "weights: nothing in them": partial(reheaded, lambda header: {}, name=ADAPTER_WEIGHTS),
    "weights: one missing": lambda folder: adapter_saved(lambda weights: weights.pop(next(iter(weights))), folder),
    "weights: one more": lambda folder: adapter_saved(lambda weights: weights.update(x=torch.zeros(2)), folder),
    "weights: no numbers": lambda folder: adapter_saved(
        lambda weights: [one.fill_(torch.nan) for one in weights.values()], folder
    ),
    ".bin: noise": partial(adapter_bin, lambda path: path.write_bytes(bytes(range(256)) * 9)),
    ".bin: a list": partial(adapter_bin, lambda path: torch.save([1], path)),
    ".bin: a number": partial(adapter_bin, lambda path: torch.save(5, path)),
    ".bin: values that are no tensors": partial(adapter_bin, lambda path: torch.save({"a": 1}, path)),
    ".bin: a bomb": lambda folder: [(folder / ADAPTER_WEIGHTS).unlink(), bomb("adapter_model.bin", folder)],
    ".bin: a plain bomb": lambda folder: [
        (folder / ADAPTER_WEIGHTS).unlink(),
        bomb("adapter_model.bin", folder, plain=True),
    ],
    "varlen_lab.json: no JSON": text("{", "varlen_lab.json"),
    "varlen_lab.json: a list": text("[]", "varlen_lab.json"),
    "varlen_lab.json: step a word": text('{"step": "x"}', "varlen_lab.json"),
    "varlen_lab.json: base a number": text('{"step": 1, "base": 5}', "varlen_lab.json"),
    "xtuner_config.py: no config": text("import os", "xtuner_config.py"),
    "xtuner_config.py: Latin-1": text(b"\xe9", "xtuner_config.py"),
}


def adapter_saved(edit: Callable[[dict[str, torch.Tensor]], Any], folder: Path) -> None:
    """Other weights in the adapter."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / ADAPTER_WEIGHTS)
    edit(weights)
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


# ---- model_config of a config file


def numbers(kind: str = "llama", **more: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every size of a model at every number that is none for it."""
    odd: tuple[Any, ...] = (0, -1, 1.5, "8", None, True, [8], {}, 10**9, 10**12, HUGE)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
        for value in odd:
            yield f"{kind}: {name} = {str(value)[:20]}", {**SMALL, "model_type": kind, **more, name: value}


MODEL_CONFIGS: dict[str, dict[str, Any]] = {
    **dict(numbers()),
    **{
        f"{name} = {str(value)[:20]!r}": {**SMALL, name: value}
        for name, values in {
            "model_type": (None, 5, ["llama"], {}, "", "lama", SURROGATE, "bert", "clip", "t5", "gpt_neox_japanese"),
            "vocab_size": (0, -1, "2048", 2**62, 10**13, None, 1.5),
            "intermediate_size": (0, -3, "x", 10**14, None),
            "max_position_embeddings": (0, -1, "x", None, 10**18),
            "rms_norm_eps": ("x", None, float("nan")),
            "hidden_act": ("nope", 5, None),
            "attention_dropout": ("x", 7.0, -1.0),
            "initializer_range": ("x", -1.0, float("inf")),
            "rope_parameters": ("x", {}, {"rope_type": "nope"}, {"rope_type": "yarn", "rope_theta": 1e4}, [1]),
            "rope_theta": (0, -1, "x"),
            "rope_scaling": ("x", {"type": "nope"}, {"type": "linear"}, {"rope_type": "linear", "factor": 0}),
            "dtype": ("nope", 5, "int8"),
            "quantization_config": ("x", {}, {"quant_method": "nope"}),
            "auto_map": ({"AutoModelForCausalLM": "evil.Model"}, 5, "x", ["AutoModelForCausalLM"]),
            "num_labels": (10**9, "x", -1),
            "id2label": ([1], "x"),
            "architectures": (5, "x", [5]),
            "pad_token_id": (10**9, -5, "x"),
            "layer_types": (["nope"], ["full_attention"] * 9, "x", 5),
            "attn_implementation": ("nope", 5, "nobody/kernels"),
            "tie_word_embeddings": ("x", 5),
            "pretraining_tp": (0, "x"),
            "text_config": ({}, "x"),
            "per_layer_config": ("x", {"0": 5}),
            "__class__": ("x",),
            "self": ("x",),
            "to_dict": ("x",),
            "_name_or_path": (5,),
            "name_or_path": ("../..",),
            "return_dict": ("x",),
            "transformers_version": (5,),
            SURROGATE: (1,),
            "a key with blanks": (1,),
        }.items()
        for value in values
    },
    "empty": {},
    "nothing but the type": {"model_type": "llama"},
    "gpt2: n_head 0": {"model_type": "gpt2", "n_head": 0, "n_embd": 32, "n_layer": 1},
    "gpt2: n_embd not divided": {"model_type": "gpt2", "n_head": 3, "n_embd": 32, "n_layer": 1},
    "mixtral: no experts": {**SMALL, "model_type": "mixtral", "num_local_experts": 0},
    "mixtral: more a token than there are": {
        **SMALL,
        "model_type": "mixtral",
        "num_local_experts": 2,
        "num_experts_per_tok": 5,
    },
    "mixtral: a billion experts": {**SMALL, "model_type": "mixtral", "num_local_experts": 10**9},
    "deepseek_v3: ranks": {**SMALL, "model_type": "deepseek_v3", "kv_lora_rank": 0, "q_lora_rank": -1},
    "mamba: state 0": {"model_type": "mamba", "hidden_size": 32, "state_size": 0, "num_hidden_layers": 1},
    "varlen_baichuan: no heads": {**SMALL, "model_type": "varlen_baichuan", "alibi": True, "num_attention_heads": 0},
    "varlen_deepseek_moe: sizes that do not meet": {
        **SMALL,
        "model_type": "varlen_deepseek_moe",
        "qk_rope_head_dim": 7,
    },
}
