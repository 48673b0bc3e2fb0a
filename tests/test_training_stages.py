"""What is asked of DeepSpeed: processes, a stage by XTuner's name or a JSON file, and a version that can be used."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.engines.stages import with_precision, zero_settings
from varlen_lab.training.engines.zero import import_deepspeed
from varlen_lab.training.trainer import train


def test_flags_that_need_processes_say_so(small: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NPROC_PER_NODE=2"):
        train(small, progress=False, fsdp=True)
    with pytest.raises(InputError, match="choose one"):
        train(small, progress=False, fsdp=True, deepspeed="deepspeed_zero1")
    with pytest.raises(InputError, match="did you mean 'deepspeed_zero2'"):
        zero_settings("deepspeed_zero22")
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}, "gradient_clipping": 3}')
    with pytest.raises(InputError, match="gradient_clipping"):
        zero_settings(str(tmp_path / "ds.json"))
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}')
    assert zero_settings(str(tmp_path / "ds.json")) == {"zero_optimization": {"stage": 2}}
    (tmp_path / "ds.json").write_text('{"zero_optimization": {}}')
    with pytest.raises(InputError, match="has stage = None"):
        zero_settings(str(tmp_path / "ds.json"))
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}, "bf16": {"check_grad_overflow": false}}')
    with pytest.raises(InputError, match="check_grad_overflow = false in bf16"):
        zero_settings(str(tmp_path / "ds.json"))
    for stage in ("true", "2.0", '"2"', "[2]"):
        (tmp_path / "ds.json").write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
        with pytest.raises(InputError, match="has stage = "):
            zero_settings(str(tmp_path / "ds.json"))
    (tmp_path / "ds.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        zero_settings(str(tmp_path / "ds.json"))
    (tmp_path / "ds.json").write_text("{stage: 2}")
    with pytest.raises(InputError, match=r"is no JSON .*--deepspeed"):
        zero_settings(str(tmp_path / "ds.json"))


def test_a_json_file_of_another_trainer_is_taken_and_one_of_another_precision_is_not(tmp_path: Path) -> None:
    ours = {"zero_optimization": {"stage": 2}}
    file = tmp_path / "ds.json"
    file.write_text(
        '{"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto", "optimizer": "auto", '
        '"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}'
    )
    for precision, on in {"fp32": {}, "bf16": {"bf16": {"enabled": True}}, "fp16": {"fp16": {"enabled": True}}}.items():
        assert with_precision(zero_settings(str(file)), precision) == ours | on
    for said, precision in [
        ({"bf16": {"enabled": True}}, "fp32"),
        ({"bfloat16": {"enabled": True}}, "fp16"),
        ({"fp16": {"enabled": True}}, "bf16"),
        ({"bf16": {"enabled": False}}, "bf16"),
        ({"bf16": "yes"}, "bf16"),
    ]:
        with pytest.raises(InputError, match=f"config says dtype = '{precision}'"):
            with_precision(ours | said, precision)
    scale = {"fp16": {"initial_scale_power": 8}}
    assert with_precision(ours | scale, "fp16")["fp16"] == {"initial_scale_power": 8, "enabled": True}


@pytest.mark.parametrize("problem", ["missing", "unusable", "old"])
def test_a_deepspeed_that_cannot_be_used_is_said(problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = {"missing": "No module named 'deepspeed'", "unusable": "undefined symbol", "old": "0.19.2 takes steps"}
    source = {"missing": "raise ModuleNotFoundError(\"No module named 'deepspeed'\")"}
    source |= {"unusable": "raise RuntimeError('undefined symbol: x')"}
    source |= {"old": "__version__, __version_major__, __version_minor__, __version_patch__ = '0.19.2', 0, 19, 2"}
    (tmp_path / "deepspeed" / "ops").mkdir(parents=True)
    (tmp_path / "deepspeed" / "__init__.py").write_text(source[problem])
    (tmp_path / "deepspeed" / "ops" / "__init__.py").write_text("__compatible_ops__ = {}")
    monkeypatch.syspath_prepend(tmp_path)
    refused = pytest.raises(
        InputError, match=f"{words[problem]}.*; pip install 'deepspeed>=0.19.3', or train with --fsdp"
    )
    with patch.dict(sys.modules), refused:  # the one that was planted must not stay for other tests
        for name in [name for name in sys.modules if name.split(".")[0] == "deepspeed"]:
            del sys.modules[name]
        import_deepspeed("cuda")
