"""``deterministic = True``: the same bits again, or a sentence that names what cannot; afterwards all is as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.expect import refused
from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load
from varlen_lab.studies.comparison import compare
from varlen_lab.training import step as loop
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.determinism import CUBLAS, repeatable
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train


def switches() -> tuple[object, ...]:
    """All that ``repeatable`` may touch."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        os.environ.get(CUBLAS),
    )


ON = (True, False, True, False, False, None)


@pytest.fixture(params=["as torch starts", "as a person left them"])
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[object, ...]]:
    """The switches outside."""
    monkeypatch.delenv(CUBLAS, raising=False)
    if request.param == "as a person left them":
        torch.use_deterministic_algorithms(True, warn_only=True)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    yield switches()
    torch.use_deterministic_algorithms(False)


def not_repeatable() -> None:
    """The planted fault, which torch knows on a CPU too: which of two values stays depends on who comes last."""
    torch.zeros(3).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))


def test_switches_are_on_inside_and_put_back(before: tuple[object, ...]) -> None:
    with repeatable(True, "cpu"):
        assert switches() == ON
    assert switches() == before
    with pytest.raises(KeyboardInterrupt), repeatable(True, "cpu"):
        raise KeyboardInterrupt
    assert switches() == before
    with refused("deterministic = True"), repeatable(True, "cpu"):
        not_repeatable()
    assert switches() == before


def test_without_it_nothing_is_touched(before: tuple[object, ...]) -> None:
    with repeatable(False, "cuda"):
        assert switches() == before


def test_an_operation_that_cannot_is_named() -> None:
    sentence = r"no put_ on cpu that gives the same bits again; set deterministic = False\.$"
    with refused(sentence), repeatable(True, "cpu"):
        not_repeatable()
    sentence = r"no histc_cuda on cuda .*; set deterministic = False, or device = 'cpu'\.$"
    with refused(sentence), repeatable(True, "cuda"):
        raise RuntimeError("histc_cuda does not have a deterministic implementation, but you set 'torch.use_...'")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(torch.OutOfMemoryError), repeatable(True, "cpu"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_where_nobody_promises_it_is_refused() -> None:
    with refused("device is 'mps', where torch does not promise equal bits"), repeatable(True, "mps"):
        pass


# ------------------------------------------------------------------------------------------------------- cuBLAS


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A process with a GPU; bytes that were ever taken there."""
    taken = {"allocated_bytes.all.allocated": 0}
    monkeypatch.delenv(CUBLAS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: taken if device else {})
    return taken


def test_the_variable_is_set_while_it_counts(gpu: dict[str, int]) -> None:
    with repeatable(True, "cuda"):
        assert os.environ[CUBLAS] == ":4096:8"
    assert CUBLAS not in os.environ  # nothing has read it
    with repeatable(True, "cuda"):
        gpu["allocated_bytes.all.allocated"] = 512
    assert os.environ[CUBLAS] == ":4096:8"  # it was read and stays in force
    with repeatable(True, "cuda"):  # so that a second run of this process knows
        pass


def test_too_late_is_one_sentence(gpu: dict[str, int]) -> None:
    gpu["allocated_bytes.all.allocated"] = 512
    with refused(f"set {CUBLAS}=:4096:8 before the program or the notebook's kernel starts"), repeatable(True, "cuda"):
        pass
    assert CUBLAS not in os.environ
    with repeatable(True, "cpu"):
        pass


def test_a_value_that_promises_nothing_is_refused(gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":0:0")
    with refused(f"{CUBLAS} is ':0:0', .* must be :4096:8 or :16:8"), repeatable(True, "cuda"):
        pass
    monkeypatch.setenv(CUBLAS, ":16:8")
    with repeatable(True, "cuda"):
        assert os.environ[CUBLAS] == ":16:8"
    assert os.environ[CUBLAS] == ":16:8"


def test_when_torch_finds_it_missing_the_sentence_is_the_same(gpu: dict[str, int]) -> None:
    """A GPU that was used in a way its allocator has not seen."""
    with refused(f"needs the environment variable {CUBLAS}"), repeatable(True, "cuda"):
        raise RuntimeError(f"this operation is not deterministic because it uses CuBLAS ... you must set {CUBLAS}=...")


# --------------------------------------------------------------------------------------------------------- runs


def weights(history: History) -> dict[str, torch.Tensor]:
    assert history.checkpoint is not None
    return read_checkpoint(history.checkpoint)["model"]


def same_bits(one: History, two: History) -> bool:
    pairs = zip(weights(one).values(), weights(two).values(), strict=True)
    return one.losses == two.losses and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("mode", ["unpacked", "varlen"])
def test_a_run_again_gives_the_same_bits_and_on_a_cpu_those_without(small: Config, tmp_path: Path, mode: str) -> None:
    def run(name: str, **changes: object) -> History:
        return train(small.with_mode(mode).replace(work_dir=str(tmp_path / name), **changes), progress=False)

    first, again = run("a", deterministic=True), run("b", deterministic=True)
    assert same_bits(first, again) and same_bits(first, run("c"))
    assert not same_bits(first, run("d", lr=1e-3))  # the comparison sees a difference


@pytest.mark.parametrize("work", [lambda config: train(config, progress=False), compare], ids=["train", "compare"])
def test_a_run_of_what_cannot_repeat_ends_in_the_sentence(
    small: Config, monkeypatch: pytest.MonkeyPatch, work: Callable[[Config], object]
) -> None:
    real = loop.token_loss_sum

    def planted(model, batch):  # type: ignore[no-untyped-def]
        not_repeatable()
        return real(model, batch)

    monkeypatch.setattr(loop, "token_loss_sum", planted)
    work(small)
    with refused("no put_ on cpu"):
        work(small.replace(deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.alone
def test_two_threads_that_gather_a_token_often_repeat_too() -> None:
    """What a mixture of experts does that sends a token to three experts or more: without it, each run is another."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(500, 256, generator=generator, requires_grad=True)
    chosen = torch.randint(0, 50, (4000,), generator=generator)
    upstream = torch.randn(4000, 256, generator=generator)
    found = set()
    torch.set_num_threads(2)
    try:
        with repeatable(True, "cpu"):
            for _ in range(10):
                (gradient,) = torch.autograd.grad(tokens[chosen], tokens, upstream)
                found.add(gradient.numpy().tobytes())
    finally:
        torch.set_num_threads(1)
    assert len(found) == 1


def test_a_run_that_began_without_it_does_not_go_on_with_it(small: Config) -> None:
    """Its history would call the whole run repeatable, and its first half is not."""
    config = small.replace(max_steps=4, save_steps=2)
    train(config, progress=False)
    with refused("was trained with deterministic = False and the config says True"):
        train(config.replace(deterministic=True), progress=False, resume=Path(config.work_dir or "") / "iter_2.pth")


def test_the_setting_is_written_into_configs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy-cfg", "tiny_llama_full_docstrings_e1", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.py")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("deterministic = ")]
    assert len(lines) == 1 and lines[0].startswith("deterministic = False")
    path.write_text(path.read_text(encoding="utf-8").replace(lines[0], "deterministic = True"), encoding="utf-8")
    assert load(path).deterministic is True
    capsys.readouterr()
