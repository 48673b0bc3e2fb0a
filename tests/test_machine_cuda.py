"""The laws of the CPU tests, on a CUDA device: ``pytest -m gpu``. Elsewhere they skip and say why."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F

from varlen_lab.attention import dispatch
from varlen_lab.attention.choosing import AttentionShape, first_able, import_problem
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.huggingface import hf_name_of
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.seen import attention_seen
from varlen_lab.machine.gpu import gpu_facts, why_unusable
from varlen_lab.models.building import build_model, from_scratch, tiny
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.studies.comparison import compare
from varlen_lab.training.conversion import convert
from varlen_lab.training.data import load_rows, load_tokenizer
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.loss import summed_loss
from varlen_lab.training.plan import plan_steps
from varlen_lab.training.step import Batch, batched, collator, optimize
from varlen_lab.training.trainer import train

WHY = why_unusable(gpu_facts())
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(WHY is not None, reason=str(WHY))]

DEVICE = "cuda"
UGLY = [1, 2, 63, 64, 65, 127, 128, 129, 300, 7]
KERNELS = ["flash_attn_3", "flash_attn", "torch_varlen", "flex"]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    if any(map(import_problem, BACKENDS[request.param].modules)):
        pytest.skip(f"{request.param} is not installed here")
    return request.param


def qkv(total: int, heads: tuple[int, int] = (8, 2), width: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, keys = heads
    return [
        torch.randn(total, count, width, generator=generator).to(DEVICE, torch.bfloat16).requires_grad_()
        for count in (query, keys, keys)
    ]


def packed(lengths: list[int], vocabulary: int = 2000) -> dict[str, Any]:
    ids = (torch.arange(sum(lengths)) * 37 % vocabulary).numpy()
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": lengths}])
    return {name: value.to(DEVICE) if hasattr(value, "to") else value for name, value in batch.items()}


# ------------------------------------------------------------------------------------------------------ kernels


def test_flex_takes_a_short_row_of_four_heads_to_one() -> None:
    """Of its own torch takes a kernel that has no tiles for it; a head dim of 8 is too narrow for any."""
    row = Boundaries.from_lengths([1, 7, 30, 2], DEVICE)
    q, k, v = qkv(row.total, (4, 1), 8)
    out = attend(q, k, v, row, backend="flex")
    out.float().sum().backward()
    truth = attend(*(x.detach().double() for x in (q, k, v)), row, backend="reference")
    torch.testing.assert_close(out.double(), truth, rtol=2e-2, atol=2e-2)
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


def test_a_kernel_equals_each_document_alone(kernel: str) -> None:
    row = Boundaries.from_lengths(UGLY, DEVICE)
    q, k, v = qkv(row.total)
    out = attend(q, k, v, row, backend=kernel)
    for start, end in row.spans:
        alone = Boundaries.from_lengths([end - start], DEVICE)
        wide = (x[start:end].detach().double() for x in (q, k, v))
        truth = attend(*wide, alone, backend="reference")
        torch.testing.assert_close(out[start:end].double(), truth, rtol=2e-2, atol=2e-2)


def test_not_even_a_nan_leaks(kernel: str) -> None:
    row = Boundaries.from_lengths(UGLY, DEVICE)
    q, k, v = qkv(row.total)
    start, end = row.spans[4]
    clean = attend(q, k, v, row, backend=kernel).detach()
    poison = [x.detach().clone() for x in (q, k, v)]
    for x in poison[: 2 if kernel == "flex" else 3]:  # flex multiplies whole blocks: a NaN in v would cross, see there
        x[start:end] = float("nan")
    out = attend(*poison, row, backend=kernel)
    assert torch.equal(out[:start], clean[:start]) and torch.equal(out[end:], clean[end:])
    attend(q, k, v, row, backend=kernel)[start:end].float().sum().backward()
    for x in (q, k, v):
        assert x.grad is not None and x.grad[start:end].any()
        assert not x.grad[:start].any() and not x.grad[end:].any()


def test_a_long_row_takes_no_quadratic_memory(kernel: str) -> None:
    """A bool mask of 32k x 32k alone would be a gigabyte."""
    row = Boundaries.from_lengths([512] * 64, DEVICE)
    q, k, v = qkv(row.total)
    attend(q, k, v, row, backend=kernel).float().sum().backward()  # compiled and warm
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attend(q, k, v, row, backend=kernel).float().sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 500 * 2**20


def test_a_live_model_uses_the_mask_that_was_promised(kernel: str) -> None:
    config = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    model = from_scratch({"model_type": "llama", "num_hidden_layers": 2, **config}, hf_name_of(kernel), seed=0)
    seen = attention_seen(model.to(DEVICE, torch.bfloat16), packed([14, 30, 9], 500))
    assert seen.crossing.tolist() == [0.0, 0.0]


# ------------------------------------------------------------------------------------------------------- models


@contextmanager
def no_waiting() -> Iterator[None]:
    """To wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("backend", ["torch_varlen", "sdpa"])
def test_a_batch_that_was_checked_lets_no_layer_wait_for_the_gpu(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers looks once a forward pass whether position ids restart, for masks that ours does not take
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    model = tiny("llama").to(DEVICE, torch.bfloat16)
    model.set_attn_implementation(hf_name_of(backend))
    inputs = packed([14, 30, 9])
    labels = inputs.pop("labels")
    model(**inputs, use_cache=False).logits.sum().backward()  # warm
    on_cpu = {name: x.cpu() if hasattr(x, "cpu") else x for name, x in inputs.items()}
    batch = Batch(on_cpu, labels.cpu(), 53).to(torch.device(DEVICE))
    with no_waiting():
        model(**batch.inputs, use_cache=False).logits.sum().backward()
    short = torch.tensor([0, 14, 44, 50], dtype=torch.int32, device=DEVICE)
    wrong = inputs | {"cu_seq_lens_q": short, "cu_seq_lens_k": short}
    with pytest.raises(InputError, match="the boundaries end at 50 and q has 53 tokens"):
        model(**wrong)


def test_a_compiled_model_is_one_graph_with_torchs_kernel() -> None:
    model = tiny("llama", num_hidden_layers=4).to(DEVICE, torch.bfloat16)
    model.set_attn_implementation(hf_name_of("torch_varlen"))
    plain = model(**packed([14, 30, 9]), use_cache=False).logits
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model.compile(dynamic=True)
    for lengths in ([14, 30, 9], [40, 1], [100]):
        inputs = packed(lengths)
        del inputs["labels"]
        out = model(**inputs, use_cache=False).logits
        out.float().sum().backward()
        if lengths == [14, 30, 9]:
            torch.testing.assert_close(out, plain, rtol=5e-2, atol=5e-2)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma", "deepseek", "baichuan", "starcoder"])
def test_a_family_is_exact_on_a_kernel(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, which the CUDA kernels take; in fp32, in which parity is certified, ``auto`` takes sdpa."""
    took = set()

    functions = {backend.function: name for name, backend in BACKENDS.items()}
    resolve = dispatch.resolve_name

    def noting(function: str) -> Any:
        def noted(q: torch.Tensor, *others: Any) -> Any:
            took.update({functions.get(function)} if q.dtype is torch.bfloat16 else ())
            return resolve(function)(q, *others)

        return noted

    monkeypatch.setattr(dispatch, "resolve_name", noting)
    model = tiny(family).to(DEVICE, torch.bfloat16)
    report = audit(model, packed([40, 1, 90, 17]))
    assert report.ok, str(report)
    kernel = first_able(AttentionShape.of(model).job(DEVICE, torch.bfloat16))
    assert kernel in ("flash_attn", "flash_attn_3", "torch_varlen") and kernel in took and "sdpa" not in took, took


def test_softcap_and_slopes_run_on_flex() -> None:
    """Gemma 2 and Baichuan-13B in bf16: flex, or flash-attn where it is."""
    row = Boundaries.from_lengths(UGLY, DEVICE)
    for options in ({"softcap": 5.0}, {"alibi_slopes": torch.logspace(-1, -8, 8, base=2, device=DEVICE)}):
        q, k, v = qkv(row.total)
        out = attend(q, k, v, row, backend="flex", **options)  # type: ignore[arg-type]
        truth = attend(*(x.detach().double() for x in (q, k, v)), row, backend="reference", **options)  # type: ignore
        torch.testing.assert_close(out.double(), truth, rtol=2e-2, atol=2e-2)


# ----------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_varlen_equals_unpacked_here(small: Config, dtype: str) -> None:
    comparison = compare(small.replace(device=DEVICE, dtype=dtype, max_steps=10))
    if dtype == "bf16":
        assert comparison.rounding_from() is None, comparison.verdict()
    assert max(map(abs, comparison.difference("varlen"))) < {"fp32": 1e-3, "bf16": 2e-2}[dtype]
    assert comparison.cosines["varlen"] > 0.9995
    assert max(map(abs, comparison.difference("packed"))) > 1e-3


def test_a_step_hardly_waits_for_the_device(small: Config) -> None:
    """Once for loss and norm; and transformers once a forward pass, where it looks whether position ids restart."""
    config = small.with_mode("varlen").replace(device=DEVICE, max_steps=4)
    engine = make_engine(build_model(config), config, 4, make_accelerator(config))
    rows, _ = load_rows(config, load_tokenizer(config))
    steps = list(batched(rows, plan_steps(len(rows), config), collator("varlen", 0)))
    records = optimize(engine, steps)
    next(records)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            next(records)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in waits if "synchroniz" in str(one.message)]
    assert len(waits) <= 1 + len(steps[1]), [str(one.message)[:200] for one in waits]


def test_train_resume_and_convert_here(small: Config, tmp_path: Path) -> None:
    config = small.with_mode("varlen").replace(device=DEVICE, max_steps=6, save_steps=3, save_total_limit=-1)
    whole = train(config, progress=False)
    assert whole.meta["device"].startswith("cuda") and whole.meta["dtype"] == "bf16"
    half = Path(config.work_dir or "") / "iter_3.pth"
    again = train(config.replace(work_dir=str(tmp_path / "again")), progress=False, resume=half)
    # sums over atomics are not taken in one order: equal up to rounding, not to the last bit
    assert again.losses[-3:] == pytest.approx(whole.losses[-3:], rel=1e-2)
    done = convert(config, whole.checkpoint, tmp_path / "hf")  # type: ignore[arg-type]
    assert done.max_logit_difference <= 1e-5


def test_the_kernel_of_a_run_is_the_fastest_of_those_timed(small: Config) -> None:
    choice = train(small.with_mode("varlen").replace(device=DEVICE, max_steps=1), progress=False).meta["kernel_choice"]
    times = choice["milliseconds"]
    assert len(times) >= 2 and choice["backend"] == min(times, key=times.__getitem__), choice
    assert not any("computes something else" in why or "failed" in why for why in choice["ineligible"].values()), choice


def test_deterministic_runs_are_equal_to_the_bit(small: Config) -> None:
    """In a process of its own: cuBLAS reads its variable once, before the first product."""
    program = (
        "import sys\n"
        "from varlen_lab.config.text import load\n"
        "from varlen_lab.training.trainer import train\n"
        "config = load(sys.argv[1]).with_mode('varlen').replace(device='cuda', deterministic=True, max_steps=6, "
        "save_steps=3, save_total_limit=-1)\n"
        "whole = train(config, progress=False)\n"
        "again = train(config.replace(work_dir=config.work_dir + '_2'), progress=False, "
        "resume=config.work_dir + '/iter_3.pth')\n"
        "assert again.losses == whole.losses[3:], (again.losses, whole.losses)\n"
    )
    path = Path(small.work_dir or "").parent / "deterministic.py"
    path.write_text(render(small), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_bf16_weights_take_half_the_memory(small: Config) -> None:
    used = []
    for master in (True, False):
        config = small.replace(device=DEVICE, dtype="bf16", master_weights=master)
        gc.collect()  # engines lie in cycles
        before = torch.cuda.memory_allocated()
        engine = make_engine(build_model(config), config, 3, make_accelerator(config))
        used.append(torch.cuda.memory_allocated() - before)
        del engine
    assert used[1] < 0.6 * used[0]


def test_compiled_layers_say_the_same(small: Config) -> None:
    config = small.with_mode("varlen").replace(device=DEVICE, max_steps=5)
    plain = train(config, progress=False)
    compiled = train(config.replace(torch_compile=True, work_dir=f"{config.work_dir}_c"), progress=False)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-2)


def test_the_loss_of_bf16_logits() -> None:
    logits = torch.randn(2, 500, 3000, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(0, 3000, (2, 500), device=DEVICE)
    mine = summed_loss(logits, labels)
    theirs = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum")
    assert math.isfinite(float(mine.detach()))
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_check_env_is_ready_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env"]) == 0
    assert "cuda, bfloat16" in capsys.readouterr().out
