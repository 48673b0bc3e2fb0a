"""A config is data: what is written is what is read, and nothing in it is ever run."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from expect import refused, within
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.attention.registry import BACKENDS
from varlen_lab.config.idle import IDLE
from varlen_lab.config.names import config_names, named_config, search_names
from varlen_lab.config.schema import Config, choices, schema, setting_names
from varlen_lab.config.text import load, load_text, override, parse_overrides, render
from varlen_lab.documents.registry import MAP_FNS
from varlen_lab.errors import InputError
from varlen_lab.packing.registry import OVERLONG, STRATEGIES, WEIGHTINGS

TEMPLATE = named_config("tiny_llama_full_docstrings_e1")


def read(text: str) -> Config:
    return load_text(text, "c.py")


@pytest.mark.parametrize("name", config_names())
def test_every_recipe_survives_render_and_load(name: str, tmp_path: Path) -> None:
    config = named_config(name)
    path = tmp_path / f"{name}_copy.py"
    path.write_text(render(config), encoding="utf-8")
    assert load(path) == config
    assert load(path).name == f"{name}_copy"


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(0, 1),
            "max_length": st.integers(2, 10**6),
            "max_steps": st.none() | st.integers(1, 10**6),
            "SYSTEM": st.text(st.characters(exclude_categories=["Cs"])),
            "evaluation_inputs": st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
            "use_varlen_attn": st.booleans(),
            "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
        },
    )
)
def test_any_values_survive_render_and_load(changes: dict[str, object]) -> None:
    config = TEMPLATE.replace(**changes)
    assert read(render(config)) == config


def test_the_file_looks_like_the_page() -> None:
    lines = render(named_config("internlm_7b_full_oasst1_e3")).splitlines()
    assert re.fullmatch(r"# +PART 1  Settings +#", lines[1])
    assert "# Model" in lines
    assert any(line.startswith("use_varlen_attn = False") for line in lines)
    assert all(f"{row.name} = " in "\n".join(lines) for row in schema() if not row.metadata["adapter"])


def test_the_pages_one_line_edit_loads() -> None:
    text = render(named_config("internlm_7b_full_oasst1_e3"))
    edited = text.replace("use_varlen_attn = False", "use_varlen_attn = True")
    assert read(edited).mode == "varlen"
    assert read(text).mode == "packed"


BAD = [
    ("lr = 'fast'", "c.py:1: lr is 'fast', it must be float"),
    ("max_length = 0", "c.py:1: max_length is 0, it must be at least 2"),
    ("max_length = -1", "at least 2"),
    ("max_length = True", "it must be int"),
    ("max_length = (1, 2)", "it must be int"),
    ("\nuse_varlen_atn = True", "c.py:2: "),
    ("use_varlen_atn = True", "did you mean 'use_varlen_attn'?"),
    ("use_varlen_attn = True\npack_to_max_length = False", "c.py:1: use_varlen_attn"),
    ("lr = 1e-4\nlr = 2e-4", "c.py:2: lr is already set on line 1"),
    ("lr = [", "c.py:1: not readable"),
    ("lr = 1e-4\nbetas = (0.9,\n\n", "c.py:2: not readable"),
    ("lr = 1" + "0" * 400, "finite"),
    ("max_length = -0x" + "f" * 6000, "it must be at least 2"),
    ("seed = 0x" + "f" * 6000, "below 2**63"),
    ("\nmodel_config = {'model_type': 'llama',\n 'model_type': 'gpt2'}", "c.py:3: model_config has the key"),
    ("evaluation_inputs = ['Why?', 3]", "it must hold questions"),
    ("SYSTEM = '\\ud800'", "half of a character"),
    ("lr = 1e999", "finite"),
    ("lr = float('nan')", "is code"),
    ("use_varlen_attn = true", "write True"),
    ("use_varlen_attn = Ture", "write True"),
    ("data_path = chats.jsonl", "text stands in quotes, 'chats.jsonl'"),
    ("__import__('os').system('echo hi')", "c.py:1: `__import__('os').system('echo hi')` is not a"),
    ("lr = __import__('os').system('echo hi')", "c.py:1: the value of lr is code"),
    ("import os", "c.py:1: `import os` is not"),
    ("lr: float = 1e-4", "is not a `name = value` line"),
    ("lr = max_length = 3", "is not a `name = value` line"),
    ("device = 'gpu'", "it must be one of auto, cpu, cuda"),
    ("pack_strategy = 'unpacked'", "it must be one of best_fit, tightest, sequential, concat"),
    ("attn_backend = 'torch_varlem'", "did you mean 'torch_varlen'"),
    ("overlong = ''", "it must be one of truncate, split, drop, error"),
    ("evaluation_share = 1.0", "it is a share and must be below 1"),
    ("data_path = []", "a list of it must hold names or files"),
    ("data_path = ['a', 3]", "a list of it must hold names or files"),
    ("evaluation_inputs = ['\\ud800']", "half of a character"),
    ("betas = (0.9,)", "betas is"),
    ("save_total_limit = 0", "use -1"),
    ("warmup_ratio = 2.0", "at most 1"),
    ("x = " + "(" * 500, "not readable"),
    ("lr = " + "-" * 100_000 + "1", "c.py:1: "),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text[:30].strip() for text, _ in BAD])
def test_a_mistake_is_named_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    sentence = str(caught.value)
    assert message in sentence
    assert sentence.startswith("c.py:") and "\n" not in sentence


REGISTRIES = {
    "attn_backend": BACKENDS,
    "pack_strategy": STRATEGIES,
    "overlong": OVERLONG,
    "loss_weighting": WEIGHTINGS,
    "dataset_map_fn": MAP_FNS,
}


@pytest.mark.parametrize("name", REGISTRIES)
def test_what_a_registry_holds_is_a_choice_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = REGISTRIES[name]
    with pytest.raises(InputError, match=f"{name} is 'dummy'"):
        TEMPLATE.replace(**{name: "dummy"})
    monkeypatch.setitem(registry, "dummy", next(iter(registry.values())))
    config = TEMPLATE.replace(**{name: "dummy"})
    assert read(render(config)) == config
    row = next(row for row in schema() if row.name == name)
    assert choices(row)[-1] == "dummy"
    with pytest.raises(InputError, match=r"it must be one of .*dummy.*did you mean 'dummy'"):
        TEMPLATE.replace(**{name: "dumy"})


@pytest.mark.parametrize("name", ["best_fit", "tightest", "sequential", "concat"])
def test_every_strategy_is_a_setting(name: str) -> None:
    assert TEMPLATE.replace(pack_strategy=name).pack_strategy == name


def test_the_comment_of_a_setting_names_its_choices() -> None:
    """What a person reads in the file; kernels and templates are too many: check-env, and an error, list them."""
    for row in schema():
        if row.name not in ("attn_backend", "prompt_template"):
            assert all(name in row.metadata["comment"] for name in choices(row)), row.name


def test_code_in_a_config_is_not_run(tmp_path: Path) -> None:
    sign, config = tmp_path / "was_here", tmp_path / "evil.py"
    for line in (
        f"open({str(sign)!r}, 'w')",
        f"seed = open({str(sign)!r}, 'w')",
        f"import os\nos.mkdir({str(sign)!r})",
    ):
        config.write_text(line)
        with pytest.raises(InputError):
            load(config)
    assert not sign.exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"SYSTEM = '\xe9'")
    for path, message in ((tmp_path / "no.py", "copy-cfg"), (tmp_path / "latin.py", "UTF-8"), (tmp_path, "read")):
        with pytest.raises(InputError, match=message):
            load(path)


@pytest.mark.alone
def test_a_file_of_10_mb_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "big.py"
    path.write_text("lr = 1e-4  # " + "x" * 86 + "\n" * 100_000 * 100)
    with within(0.1), refused(r"big\.py:1: the file has 9\.\d MB"):
        load(path)


def test_files_as_editors_save_them(tmp_path: Path) -> None:
    """A byte order mark and Windows line ends are no mistakes; a byte that is not UTF-8 is named with its line."""
    path, text = tmp_path / "c.py", render(TEMPLATE).encode()
    for saved in (b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n")):
        path.write_bytes(saved)
        assert load(path) == TEMPLATE
    path.write_bytes(text + b"SYSTEM = '\xe9'\n")
    with pytest.raises(InputError, match=rf"c\.py:{text.count(bytes([10])) + 1}: not UTF-8"):
        load(path)


def test_overrides_read_literals_and_text() -> None:
    assert parse_overrides(["lr=1e-4", "data_path=a.jsonl", "max_steps=None", "betas=(0.5, 0.9)"]) == {
        "lr": 1e-4,
        "data_path": "a.jsonl",
        "max_steps": None,
        "betas": (0.5, 0.9),
    }
    for words in (["lr"], ["learning_rate=1"]):
        with pytest.raises(InputError, match="--cfg-options"):
            parse_overrides(words)


def test_with_mode_sets_both_switches() -> None:
    config = TEMPLATE
    for mode in ("unpacked", "packed", "varlen"):
        assert config.with_mode(mode).mode == mode


def test_recipes_keep_xtuners_values() -> None:
    config = named_config("internlm_7b_full_oasst1_e3")
    assert (config.lr, config.max_epochs, config.max_length, config.accumulative_counts) == (2e-5, 3, 2048, 16)
    assert (config.batch_size, config.optim_type, config.betas, config.weight_decay) == (1, "AdamW", (0.9, 0.999), 0)
    assert (config.max_norm, config.warmup_ratio, config.save_steps, config.evaluation_freq) == (1, 0.03, 500, 500)
    assert config.pack_to_max_length and not config.use_varlen_attn


@pytest.mark.parametrize("pattern", ["internlm", "InternLM7 oasst", "internlm_7b", "full oasst1"])
def test_search_finds_without_case_and_separators(pattern: str) -> None:
    assert "internlm_7b_full_oasst1_e3" in search_names(pattern)


def test_an_unknown_recipe_suggests_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean 'internlm_7b_full_oasst1_e3'"):
        named_config("internlm_7b_ful_oasst1_e3")
    assert search_names("nothing like it") == []


# --------------------------------------------------------------------------------- what has no effect is refused

WAITS = [  # (what is set, what it needs besides to do something)
    ("attn_backend=sdpa", "use_varlen_attn=True"),
    ("attn_backend=auto", "use_varlen_attn=True"),
    ("isolate=False", "use_varlen_attn=True"),
    ("pack_strategy=concat pack_to_max_length=False", "pack_to_max_length=True"),
    ("overlong=split pack_strategy=concat", "pack_strategy=best_fit"),
    ("max_epochs=5 max_steps=3", "max_steps=None"),
    ("start_factor=0.1 warmup_ratio=0", "warmup_ratio=0.1"),
    ("betas=(0.5,0.9) optim_type=SGD", "betas=(0.5,0.999)"),
    ("evaluation_inputs=['Why?'] evaluation_freq=0", "evaluation_freq=5"),
    ("evaluation_freq=7 evaluation_inputs=[]", "evaluation_share=0.1"),
    ("balance_window=8", "balance=window"),
    ("recompute=cheap", "gradient_checkpointing=True"),
    ("recompute=all", "gradient_checkpointing=True"),
    ("master_weights=False dtype=fp32", "dtype=bf16"),
    ("lora_r=64", "method=lora"),
    ("lora_dropout=0.2", "method=lora"),
    ("prompt_template=plain dataset_map_fn=pretrain evaluation_freq=0", "evaluation_freq=5"),
    ("SYSTEM=brief dataset_map_fn=pretrain evaluation_freq=0", "evaluation_freq=5"),
]


@pytest.mark.parametrize(("words", "needs"), WAITS, ids=[words for words, _ in WAITS])
def test_an_override_acts_or_is_refused(words: str, needs: str) -> None:
    with pytest.raises(InputError) as caught:
        override(TEMPLATE, words.split())
    name = words.partition("=")[0]
    assert str(caught.value).startswith("--cfg-options: ") and name in str(caught.value)
    assert "no effect" in str(caught.value) and "\n" not in str(caught.value)
    chosen = dict(pair.partition("=")[::2] for pair in [*words.split(), needs])
    acted = override(TEMPLATE, [f"{name}={value}" for name, value in chosen.items()])
    assert acted != TEMPLATE or words == "attn_backend=auto"


@pytest.mark.parametrize("words", [words for words, _ in WAITS if not words.startswith("lora_dropout")])
def test_a_file_may_hold_what_waits(words: str) -> None:
    """Turning a switch in a file never refuses another line of it."""
    config = override(TEMPLATE, words.split(), acting=False)
    assert read(render(config)) == config


def test_a_rule_between_settings_refuses_only_what_was_written() -> None:
    """Each setting alone beside a model, the others at their defaults: it is read, or refused by name at its line."""
    values = {
        int: [0, 1, 7],
        bool: [True, False],
        float: [0.0, 0.5, 1.0],
        str: ["x"],
        tuple: [(0.5, 0.9)],
        list: [["x"]],
    }
    told = set()
    for row in schema():
        kinds = [kind for kind in values if kind.__name__ in str(row.type)] or [str]
        tried = [*choices(row), *(value for kind in kinds for value in values[kind])]
        for value in tried:
            lines = ["pretrained_model_name_or_path = 'x'", "max_steps = 3", f"{row.name} = {value!r}"]
            lines = [line for line in lines[:2] if not line.startswith(f"{row.name} =")] + lines[2:]
            try:
                read("\n".join(lines))
            except InputError as problem:
                assert str(problem).startswith(f"c.py:{len(lines)}: {row.name}") or row.name == "model_config", problem
                told.add(row.name)
    assert "lora_r" in told and "evaluation_freq" not in told


def test_a_rule_speaks_of_a_line_only_where_there_is_one() -> None:
    """Neither kind of model is named: that stands on no line, least of all on that of another setting."""
    with pytest.raises(InputError) as caught:
        read("max_length = 64\nlr = 1e-4")
    assert str(caught.value).startswith("c.py: exactly one of pretrained_model_name_or_path")
    with pytest.raises(InputError) as caught:
        read("lr = 1e-4\nevaluation_freq = 0\nevaluation_share = 0.5")
    assert str(caught.value).startswith("c.py:") and "lr" not in str(caught.value).split(":")[1]


@pytest.mark.parametrize("name", random.Random(1).sample(config_names(), 60))
def test_the_switch_of_step_4_refuses_no_other_line(name: str) -> None:
    text = render(named_config(name))
    packed = text.replace("pack_to_max_length = False", "pack_to_max_length = True")
    for wanted in (True, False):
        for was in (True, False):
            packed = packed.replace(f"use_varlen_attn = {was}", f"use_varlen_attn = {wanted}")
        assert read(packed).use_varlen_attn is wanted


def test_every_setting_can_be_changed_on_the_command_line() -> None:
    """A value that differs is in the config afterwards, whatever its kind; nothing is named that does not exist."""
    assert {idle.setting for idle in IDLE} <= set(setting_names())
    values = {
        "pretrained_model_name_or_path": None, "model_config": "{'model_type': 'llama'}", "data_path": "2024.jsonl",
        "prompt_template": "mistral", "optim_type": "SGD", "loss_weighting": "pack", "betas": "(0.8, 0.9)",
        "evaluation_inputs": "['Why?']", "SYSTEM": "True", "method": None, "attn_backend": None, "dtype": "bf16",
        "dataset_map_fn": "pretrain", "pack_strategy": "concat", "overlong": "drop", "device": "cpu",
        "visualizer": "tensorboard", "work_dir": "2024", "use_varlen_attn": "true", "pack_to_max_length": "false",
        "evaluation_share": "0.5", "lora_r": None, "lora_alpha": None, "lora_dropout": None, "recompute": None,
        "checkpoint_format": "sharded", "balance": "window", "balance_window": None,
        "special_tokens_in_text": "escape", "isolate": None,
    }  # fmt: skip
    for row in schema():
        text = values.get(row.name, "False" if row.default is True else "True" if row.default is False else "7")
        text = "0.7" if row.name == "warmup_ratio" else text
        if text is not None:
            changed = override(TEMPLATE, [f"{row.name}={text}"])
            assert getattr(changed, row.name) != getattr(TEMPLATE, row.name), row.name


ODD = [
    "lr={[]: 1}", "lr=" + "(" * 5000, "lr=\x00", "lr=" + "-" * 100_000 + "1", "lr=", "lr==1", "=1", "lr", "",
    "max_length=1e400", "betas=0.9", "betas=('a','b')", "seed=1.5", "lr=nan", "max_steps=0", "max_steps=\ud800",
    "max_length=" + "9" * 5000, "evaluation_inputs=Why?", "evaluation_inputs=[3]", "model.lr=1", "name=x", "lr=1 lr=1",
    "data_path=[]", "seed=0x" + "f" * 6000, "lr=-0x" + "f" * 6000, "lr=1" + "0" * 400, "SYSTEM='\\ud800'",
    "x" * 10_000 + "=1", "max_steps=99999999999999999999",
]  # fmt: skip


@pytest.mark.parametrize("words", ODD, ids=[f"{number}" for number in range(len(ODD))])
def test_an_odd_override_is_one_sentence(words: str) -> None:
    with pytest.raises(InputError) as caught:
        override(TEMPLATE, words.split(" "))
    assert "--cfg-options" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
