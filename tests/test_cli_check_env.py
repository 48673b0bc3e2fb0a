"""``check-env`` on machines one has not got: what it says fits 80 columns and is not cut."""

from __future__ import annotations

import pytest
from expect import within
from machines import A100, H100, LAPTOP, M2, T4

from varlen_lab.attention import choosing, routes
from varlen_lab.cli import check_env, main
from varlen_lab.course import lessons
from varlen_lab.errors import InputError
from varlen_lab.machine import environment
from varlen_lab.machine.gpu import GpuFacts


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run check-env on a faked machine; what it shows, in one line, and as it was printed."""

    def brought(module: str) -> str | None:
        return None if module.startswith(("torch.", "triton")) else f"{module.partition('.')[0]} is not installed"

    def show(facts: GpuFacts, check=lambda *_: (1e-3, 2.0)) -> tuple[str, str]:
        for module in (choosing, routes):
            monkeypatch.setattr(module, "import_problem", brought)  # whatever this machine has beside torch
        monkeypatch.setenv("COLUMNS", "80")
        for module in (check_env, environment):
            monkeypatch.setattr(module, "gpu_facts", lambda **_: facts)
        monkeypatch.setattr(environment, "accelerator", lambda: facts.name)
        if facts.usable:
            monkeypatch.setattr(check_env, "numeric_check", check)
        assert main(["check-env"]) == 0
        printed = capsys.readouterr().out
        table, _, commands = printed.partition("What would bring or mend them:")
        assert max(map(len, table.splitlines())) <= 80 and "…" not in printed
        assert all(line.startswith("  ") for line in commands.partition("\n\n")[0].splitlines()[1:])  # never wrapped
        return " ".join(printed.split()), printed

    return show


def test_a_t4_takes_fp16_and_documents_one_by_one(on) -> None:
    shown, _ = on(T4)
    assert "auto takes device cuda, dtype fp16; no bf16 on this card" in shown
    assert "auto takes 'sdpa' (cuda, float16)" in shown
    assert "needs compute capability 8.0, this card has 7.5" in shown
    assert "sdpa here; cannot softcap" in shown


def test_an_a100_and_an_h100_say_what_would_fit(on) -> None:
    shown, _ = on(A100)
    assert "auto takes device cuda, dtype bf16" in shown and "auto takes 'torch_varlen' (cuda, bfloat16)" in shown
    assert "flash_attn_hub would run here; cannot fp32" in shown and "flash_attn_hub: pip install kernels" in shown
    shown, printed = on(H100)
    assert "flash_attn_4 would run here; cannot ALiBi" in shown
    assert '\n  flash_attn_4: pip install --pre "flash-attn-4[cu13]"\n' in printed
    assert "#subdirectory=hopper" in printed
    assert "flash_attn-2.*+cu13torch2.11" in "".join(printed.split())  # a long name goes over two lines
    assert "reference here; checked, differs by 1e-03" in shown


def test_a_kernel_that_is_compiled_or_fetched_is_not_run(on) -> None:
    asked: list[str] = []

    def check(backend: str, device: str, dtype: object) -> tuple[float, float]:
        asked.append(backend)
        if backend == "reference":
            raise RuntimeError("no kernel image\nis available")
        return 1e-3, 2.0

    shown, _ = on(H100, check)
    assert "flex" not in asked and "flash_attn_hub" not in asked and "torch_varlen" in asked
    assert "reference imports and fails: no kernel image" in shown  # a note: auto does not take it


def test_a_mac_says_that_its_gpu_is_taken_when_named(on) -> None:
    shown, _ = on(M2)
    assert "Apple GPU there: device = 'mps' takes it, with per-document sdpa" in shown
    assert "auto takes device cpu, dtype fp32" in shown
    assert "Apple" not in on(LAPTOP)[0]


def test_it_is_quick(on) -> None:
    on(LAPTOP)
    with within(1.0):
        on(LAPTOP)


def test_what_comes_next_is_there(on, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk through the lessons where there are lessons: a wheel has none."""
    assert on(LAPTOP)[0].endswith("Ready. Next: varlen-lab walkthrough")

    def none() -> list[lessons.Lesson]:
        raise InputError("there are no notebooks here")

    monkeypatch.setattr(lessons, "find_lessons", none)
    assert on(LAPTOP)[0].endswith("Ready. Next: varlen-lab audit --model MODEL")
