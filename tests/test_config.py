"""A config is data: what is written is what is read, and nothing in it is ever run."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab import recipes
from varlen_lab.config import Config, load, load_text, parse_overrides, render, schema
from varlen_lab.errors import InputError

TEMPLATE = recipes.get("tiny_llama_full_docstrings_e1")


def read(text: str) -> Config:
    return load_text(text, "c.py")


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_survives_render_and_load(name: str, tmp_path: Path) -> None:
    config = recipes.get(name)
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
    lines = render(recipes.get("internlm_7b_full_oasst1_e3")).splitlines()
    assert re.fullmatch(r"# +PART 1  Settings +#", lines[1])
    assert "# Model" in lines
    assert any(line.startswith("use_varlen_attn = False") for line in lines)
    assert all(f"{row.name} = " in "\n".join(lines) for row in schema() if not row.metadata["needs"])


def test_the_pages_one_line_edit_loads() -> None:
    text = render(recipes.get("internlm_7b_full_oasst1_e3"))
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
    ("lr = 1e999", "finite"),
    ("lr = float('nan')", "is code"),
    ("__import__('os').system('echo hi')", "c.py:1: `__import__('os').system('echo hi')` is not a"),
    ("lr = __import__('os').system('echo hi')", "c.py:1: the value of lr is code"),
    ("import os", "c.py:1: `import os` is not"),
    ("lr: float = 1e-4", "is not a `name = value` line"),
    ("lr = max_length = 3", "is not a `name = value` line"),
    ("device = 'gpu'", "it must be one of auto, cpu, cuda"),
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


@pytest.mark.parametrize("files", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_never_crash(files: int) -> None:
    """Random edits of a real config either load or are refused in a sentence with file and line."""
    text = render(recipes.get("tiny_llama_full_docstrings_e1"))
    dice = random.Random(0)
    refused = 0
    for _ in range(files):
        letters = list(text)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(letters))
            letters[at] = dice.choice(["", "(", "'", "\n", "\\", "\x00", "=", "0", "9" * 50, "é", letters[at] * 2])
        try:
            read("".join(letters))
        except InputError as problem:
            refused += 1
            assert re.match(r"c\.py:\d+: ", str(problem))
    assert files / 10 < refused < files


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
    config = recipes.get("internlm_7b_full_oasst1_e3")
    assert (config.lr, config.max_epochs, config.max_length, config.accumulative_counts) == (2e-5, 3, 2048, 16)
    assert (config.batch_size, config.optim_type, config.betas, config.weight_decay) == (1, "AdamW", (0.9, 0.999), 0)
    assert (config.max_norm, config.warmup_ratio, config.save_steps, config.evaluation_freq) == (1, 0.03, 500, 500)
    assert config.pack_to_max_length and not config.use_varlen_attn


@pytest.mark.parametrize("pattern", ["internlm", "InternLM7 oasst", "internlm_7b", "full oasst1"])
def test_search_finds_without_case_and_separators(pattern: str) -> None:
    assert "internlm_7b_full_oasst1_e3" in recipes.search(pattern)


def test_an_unknown_recipe_suggests_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean 'internlm_7b_full_oasst1_e3'"):
        recipes.get("internlm_7b_ful_oasst1_e3")
    assert recipes.search("nothing like it") == []
