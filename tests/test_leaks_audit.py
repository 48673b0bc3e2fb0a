"""The audit says ok to what is right, and names each planted fault with the fix for it."""

from __future__ import annotations

import pytest
import torch
from expect import within
from packed import packed_row
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
)

from varlen_lab.attention.huggingface import attention_of, register
from varlen_lab.attention.masks import varlen_mask
from varlen_lab.errors import InputError
from varlen_lab.leaks import preflight
from varlen_lab.leaks.before import check_before_training
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.report import AuditReport
from varlen_lab.leaks.seen import attention_seen
from varlen_lab.models.building import tiny
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import VarlenCollator

LENGTHS = [5, 1, 17, 9, 12]
IDS = list(range(10, 10 + sum(LENGTHS)))


def batch(**changes) -> dict:
    """A VarlenCollator batch; a change to None leaves the key out."""
    return packed_row(LENGTHS, IDS, **changes)


def native(**changes) -> dict:
    """What a plain loop passes: restarting position_ids and use_cache=False, no cu_seq_lens."""
    gone = dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"))
    return batch(**gone | {"use_cache": False} | changes)


def under(attention: str, family: str = "llama", **config) -> torch.nn.Module:
    """A stand-in with another attention, its weights large enough to feel a stray token."""
    ours = tiny(family, **config)
    model = AutoModelForCausalLM.from_config(ours.config, attn_implementation=attention, dtype=torch.float32)
    model.load_state_dict(ours.state_dict())
    return model


def kinds(report: AuditReport) -> set[str]:
    return {finding.kind for finding in report.findings}


# --------------------------------------------------------------------------------------------------- clean


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma", "mistral", "baichuan", "starcoder"])
def test_our_own_path_is_ok(family: str, training: bool) -> None:
    report = audit(tiny(family).train(training), batch())
    assert report.ok, str(report)
    assert not report.leaks.any() and report.future == 0 and report.parity.logits < 5e-6
    assert report.mode == ("train" if training else "eval")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_native_attention_used_rightly_is_ok(attention: str) -> None:
    report = audit(under(attention), native(), boundaries=LENGTHS)
    assert report.ok, str(report)


def test_stock_collators_are_accepted_as_they_are() -> None:
    documents = [{"input_ids": IDS[start:end]} for start, end in Boundaries.from_lengths(LENGTHS).spans]
    plain = DataCollatorWithFlattening()(documents)
    model = under("sdpa")
    model.config.use_cache = False
    report = audit(model, plain)
    assert report.ok, str(report)
    assert any("position_ids == 0" in note for note in report.notes)
    report = audit(tiny("llama"), DataCollatorWithFlattening(return_flash_attn_kwargs=True)(documents))
    assert report.ok and report.lengths == tuple(LENGTHS)


def test_a_document_a_row_has_no_seams() -> None:
    ids = torch.tensor(IDS[:40]).view(4, 10)
    assert audit(under("sdpa"), {"input_ids": ids}, boundaries=[10] * 4).ok


# -------------------------------------------------- faults; most are planted in test_leaks_faults.py


def test_use_cache_is_named_in_train_mode_too() -> None:
    report = audit(under("sdpa").train(), native(use_cache=None), boundaries=LENGTHS)
    assert kinds(report) == {"use_cache"} and "use_cache=False" in report.findings[0].fix


def test_the_first_label_of_a_document() -> None:
    labels = batch()["labels"].clone()
    labels[0, 6] = 7
    report = audit(tiny("llama"), batch(labels=labels))
    assert kinds(report) == {"border label"} and "token 6" in str(report)
    assert not report.leaks.any()


def test_a_nan_is_reported_as_nan() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    report = audit(model, batch())
    assert kinds(report) == {"NaN"} and "a leak cannot be told" in str(report)


def test_a_leak_by_hand() -> None:
    """Documents 0 and 1 share positions: 1 hears 0, and 0 cannot hear 1, which comes later."""
    report = audit(under("eager"), native(position_ids=torch.arange(len(IDS))[None]), boundaries=LENGTHS)
    assert report.leaks[1, 0] > 0 and report.leaks[0, 1] == 0
    assert (report.leaks.diagonal() == 0).all()
    assert report.leaks[4, :4].all()


# ---------------------------------------------------------------------------------------- manners and errors


def test_the_model_is_left_as_it_was_found() -> None:
    model = tiny("llama", attention_dropout=0.1).train()
    model.model.layers[0].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    report = audit(model, batch())
    assert report.ok and any("attention_dropout 0.1" in note for note in report.notes)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())
    assert model.training and not model.model.layers[0].training
    assert model.config._attn_implementation == "varlen"
    assert model.model.layers[0].self_attn.attention_dropout == 0.1
    assert not model.get_input_embeddings()._forward_hooks


def test_preflight_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = under("sdpa")
    monkeypatch.setattr(type(model), "forward", None)
    found = preflight(model, native(use_cache=None, attention_mask=torch.ones(1, len(IDS))), boundaries=LENGTHS)
    assert [finding.kind for finding in found] == ["attention_mask", "use_cache"]
    assert preflight(tiny("llama"), batch()) == []


def test_frozen_models_are_audited() -> None:
    model = tiny("llama").requires_grad_(False)
    report = audit(model, batch())
    assert report.ok and report.parity.gradients == 0


def test_bad_input_is_one_sentence() -> None:
    model = tiny("llama")
    for given, boundaries, message in (
        (batch(input_ids=None), None, "no input_ids"),
        ({"input_ids": torch.tensor([IDS])}, None, "pass boundaries"),
        (batch(), [3, 4], "cover 7 tokens"),
        (native(position_ids=torch.arange(1, len(IDS) + 1)[None]), None, "do not start at 0"),
    ):
        with pytest.raises(InputError, match=message):
            audit(model, given, boundaries=boundaries)


def test_the_report_can_be_read_by_people_and_programs() -> None:
    report = audit(tiny("llama"), batch())
    assert str(report).startswith("✓ ok: 5 documents of 44 tokens, attention 'varlen'")
    assert report.to_dict()["ok"] is True and len(report.to_dict()["leaks"]) == 5


def test_eight_documents_take_seconds() -> None:
    register()
    row = {"input_ids": list(range(800)), "labels": list(range(800)), "seq_lengths": [100] * 8}
    with within(5):
        assert audit(tiny("llama"), VarlenCollator()([row])).ok


# ------------------------------------------------------------------------------------- models of all makes


class Wrapped(torch.nn.Module):
    """A module of the user's own around a model, without a config."""

    def __init__(self, model: torch.nn.Module, answer=lambda output: output) -> None:
        super().__init__()
        self.inner, self.answer = model, answer

    def forward(self, **given):
        return self.answer(self.inner(**given))


def adapted(model: torch.nn.Module) -> torch.nn.Module:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False)
    return peft.get_peft_model(model, settings)


WRAPPERS = {
    "a module without config": Wrapped,
    "that returns a tensor": lambda model: Wrapped(model, lambda output: output.logits),
    "that returns a tuple": lambda model: Wrapped(model, lambda output: (torch.zeros(()), output.logits)),
    "that returns a dict": lambda model: Wrapped(model, lambda output: {"scores": output.logits}),
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "peft": adapted,
}


SLOW = {"torch.compile": [pytest.mark.slow]}


@pytest.mark.parametrize("wrap", [pytest.param(WRAPPERS[name], id=name, marks=SLOW.get(name, [])) for name in WRAPPERS])
def test_a_wrapped_model_is_audited_like_the_one_inside(wrap) -> None:
    report = audit(wrap(under("sdpa")), native(), boundaries=LENGTHS)
    assert report.ok and report.attention == "sdpa", str(report)
    report = audit(wrap(under("sdpa")), native(use_cache=True), boundaries=LENGTHS)
    assert kinds(report) == {"use_cache"} and report.leaks[1, 0] > 0, str(report)


def test_ddp_is_audited(tmp_path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        report = audit(torch.nn.parallel.DistributedDataParallel(tiny("llama")), batch())
        assert report.ok and report.attention == "varlen"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ctrl", "rwkv", "cpmant", "mamba2", "inkling_text"])
def test_a_class_of_an_unusual_make_is_measured(kind: str) -> None:
    """Embeddings changed in place, called with a prompt in front, with a norm of their own."""
    report = audit(miniature(kind, "eager"), native(), boundaries=LENGTHS)
    assert kinds(report) == UNUSUAL[kind], str(report)


UNUSUAL = {
    "ctrl": set(),
    "rwkv": {"recurrent layer"},
    "cpmant": {"attention of its own"},
    "mamba2": {"recurrent layer"},
    "inkling_text": {"recurrent layer"},
}


def test_what_a_class_refuses_is_a_finding() -> None:
    report = audit(miniature("qwen3_next", "varlen"), batch(use_cache=False))
    assert "Qwen3NextGatedDeltaNet of layer 0" in str(report) and "isolate(model)" in str(report)
    if kinds(report) != {"recurrent layer"}:  # transformers refuses it from 5.20 on
        assert kinds(report) == {"refused", "recurrent layer"} and "flash-linear-attention" in str(report)

    def no_cache(module, args, given):
        if "position_ids" in given and given.get("use_cache") is None:
            raise ValueError("this cache holds no packed rows\nand more lines")

    model = under("sdpa")
    model.register_forward_pre_hook(no_cache, with_kwargs=True)
    report = audit(model, native(use_cache=None), boundaries=LENGTHS)
    assert kinds(report) == {"refused"} and report.findings[0].fix == "pass use_cache=False"
    assert report.findings[0].what.endswith("ValueError: this cache holds no packed rows")
    assert "nothing was measured" in str(report) and report.to_dict()["leaks"][0][0] is None


def test_a_model_that_sees_the_future_alone_too_is_no_fault_of_packing() -> None:
    report = audit(miniature("bert", "eager", is_decoder=False), native(position_ids=None), boundaries=[len(IDS)])
    assert report.ok and report.future > 0 and any("not causal" in note for note in report.notes), str(report)


class Stubborn(torch.nn.Module):
    """A model with one fault that no audit can look through."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.table, self.fault = torch.nn.Embedding(100, 8), fault

    def forward(self, input_ids: torch.Tensor, **_) -> torch.Tensor | None:
        if self.fault == "raises":
            raise KeyError("a key")
        if self.fault == "knows no table":
            return torch.nn.functional.embedding(input_ids, self.table.weight)
        hidden = self.table(input_ids)
        if self.fault == "has no graph":
            return hidden.detach()
        if self.fault == "has no derivative":
            return hidden.exp().mul_(2) if hidden.sum() > 1e9 else Once.apply(hidden)
        return hidden.sum(1)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * 2

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("derivative of this kernel is not implemented")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "Stubborn cannot be run on one document alone .KeyError: 'a key'"),
        ("knows no table", "calls no embedding with the batch's input_ids"),
        ("has no graph", "logits without a graph"),
        ("has no derivative", "cannot be differentiated .derivative of this kernel"),
        ("sums up", "returns nothing of shape .1, 44, vocabulary"),
    ],
)
def test_a_model_that_cannot_be_audited_is_one_sentence(fault: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        audit(Stubborn(fault), {"input_ids": torch.tensor([IDS])}, boundaries=LENGTHS)
    assert "\n" not in str(raised.value)


def test_a_class_that_our_attention_refuses_says_so_in_its_own_sentence() -> None:
    with pytest.raises(InputError, match=r"BloomForCausalLM with .*'varlen' does not run .*'eager'"):
        audit(miniature("bloom", "varlen"), batch())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral"])
def test_float64_is_no_fault(kind: str) -> None:
    """transformers' eager attention, which documents alone are run with, has its softmax in float32."""
    report = audit(miniature(kind, "varlen").double(), batch())
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda batch: {name: x.tolist() for name, x in batch.items() if name == "input_ids"},
            "input_ids of the batch",
        ),
        (lambda batch: batch | {"labels": batch["labels"].tolist()}, "labels of the batch is a list"),
        (lambda batch: batch | {"cu_seq_lens_q": batch["cu_seq_lens_q"].tolist()}, "cu_seq_lens_q of the batch"),
        (lambda batch: batch | {"input_ids": batch["input_ids"][0]}, r"must be \(rows, tokens\)"),
        (lambda batch: {}, "the batch has nothing"),
    ],
)
def test_a_batch_of_no_tensors_is_refused_in_a_sentence(change, words: str) -> None:
    for check in (audit, check_before_training):
        with pytest.raises(InputError, match=words):
            check(miniature("llama"), change(batch()))


def test_what_refuses_gradients_is_not_told_to_leave_its_cache_out() -> None:
    def planted(module, query, *given, **options):
        if query.requires_grad and options.get("cu_seq_lens_q") is not None:
            raise NotImplementedError("no backward here")
        return ordinary(module, query, *given, **options)

    ordinary = attention_of("auto")
    model = miniature("llama")
    AttentionInterface.register("planted_forward_only", planted)
    AttentionMaskInterface.register("planted_forward_only", varlen_mask)
    model.set_attn_implementation("planted_forward_only")
    (finding,) = audit(model, batch(use_cache=None)).findings
    assert finding.kind == "refused" and "no backward here" in finding.what and "use_cache" not in finding.fix


def test_an_audit_under_no_grad_is_the_same_audit_and_draws_no_random_number() -> None:
    from varlen_lab.models import tiny
    from varlen_lab.packing.collators import VarlenCollator

    model, ids = tiny("llama"), list(range(5, 15))
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": [4, 6]}])
    before = torch.get_rng_state()
    with torch.no_grad():
        report = audit(model, batch)
    assert report.ok and str(report) == str(audit(model, batch))
    assert torch.equal(before, torch.get_rng_state())


def test_threads_that_audit_at_once_say_what_each_says_alone() -> None:
    """Another model is run and trained meanwhile: no audit hears of it, and its gradients are its own."""
    from concurrent.futures import ThreadPoolExecutor

    def say(kind: str) -> str:
        made = miniature(kind, "sdpa").train()
        row = native() if kind == "gpt2" else batch()
        before = [] if kind == "gpt2" else [attention_seen(made, row).crossing.tolist()]
        return f"{before} {audit(made, row)}"

    trained = under("sdpa")

    def train() -> list[torch.Tensor]:
        trained.zero_grad()
        trained(**native(labels=torch.tensor([IDS]))).loss.backward()
        return [weight.grad for weight in trained.parameters()]

    kinds = ["gpt2", "llama", "gpt2", "qwen2"]
    alone, expected, before = {kind: say(kind) for kind in kinds}, train(), torch.get_rng_state()
    with ThreadPoolExecutor(5) as pool:
        training = pool.submit(lambda: [train() for _ in range(30)])
        assert list(pool.map(say, kinds)) == [alone[kind] for kind in kinds]
        found = training.result()
    assert all(torch.equal(*pair) for each in found for pair in zip(each, expected, strict=True))
    assert torch.equal(before, torch.get_rng_state())
