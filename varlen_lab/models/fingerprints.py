"""Which model a run goes on with: the same config, and beside an adapter the same weights, under the same name.

An adapter on another base computes something else and nothing fails. A run of LoRA notes the digest and compares it
when it goes on; an adapter folder carries it. It depends on names, dtypes, shapes and bytes of the tensors in
safetensors files, not on how these are cut into files; of ``.bin`` files on their bytes. It costs a tenth of reading
the weights once more, which are in the system's memory by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import digest_file, digest_of, digest_text
from varlen_lab.models.building import NOISE_WORDS
from varlen_lab.models.sources import locate_model
from varlen_lab.models.weights import stored_tensors, weight_files

if TYPE_CHECKING:
    from varlen_lab.config.schema import Config

# in a config.json: where the model lay, what wrote it, how it is kept and answers; not what is computed in training
NOT_COMPUTED = {"_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"}
NOT_COMPUTED |= {"bos_token_id", "eos_token_id", "id2label", "label2id"}

FROM_SCRATCH = "scratch-"  # before the digest of a model that is no file: of its config and seed


def base_fingerprint(config: Config) -> str | None:
    """Of the model that a run begins with: 32 hex digits of its weights, or of ``model_config`` and seed.

    None where it is a name on the hub that was not downloaded: nobody knows then. InputError for damaged files.
    """
    if config.pretrained_model_name_or_path is not None:
        return weights_fingerprint(config.pretrained_model_name_or_path)
    return FROM_SCRATCH + digest_text(json.dumps([config.model_config, config.seed], sort_keys=True, default=str))


def weights_fingerprint(name: str) -> str | None:
    """Of the weights of a model folder, hub name, GGUF file or ``pip:PACKAGE``; see ``base_fingerprint``."""
    folder = folder_here(locate_model(name).folder)
    if folder is None:
        return None
    lines: list[str] = []
    try:
        for file in weight_files(folder):
            facts = file.stat()
            lines += digests_in(file, facts.st_size, facts.st_mtime_ns)
    except OSError as problem:
        raise InputError(f"the weights of {name} cannot be read ({problem}); check the path.") from None
    return digest_text("\n".join(sorted(lines))) if lines else None


def differ(before: object, now: object) -> bool:
    """Whether two fingerprints are of different weights; one that is not known, or of the other kind, says nothing."""
    if (
        not isinstance(before, str)
        or not isinstance(now, str)
        or before.startswith(FROM_SCRATCH) != now.startswith(FROM_SCRATCH)
    ):
        return False
    return before != now


def changed_setting(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that two configs of a model say otherwise, of those that change what is computed.

    Where another transformers wrote one of them, what only one of them has says nothing.
    """
    same = before.get("transformers_version") == now.get("transformers_version")
    one, other = computed(before), computed(now)
    names = one.keys() | other.keys() if same else one.keys() & other.keys()
    return next((name for name in sorted(names) if one.get(name, ...) != other.get(name, ...)), None)


def computed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what changes nothing that is computed, in the configs of its parts too."""
    noise = {name for name in values if any(word in name for word in NOISE_WORDS)}  # of which training has none
    kept = {name: value for name, value in values.items() if name not in NOT_COMPUTED | noise}
    return {name: computed(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def folder_here(name: str) -> Path | None:
    """The folder of a model on this machine, of a name on the hub the one that was downloaded; None: there is none."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError, HFValidationError):
        return None


@cache
def digests_in(file: Path, size: int, changed: int) -> list[str]:
    """A line a tensor; size and time of the file's last change are asked for so that it is read once."""
    if file.suffix != ".safetensors":
        return [digest_file(file)]
    tensors = stored_tensors(file)
    with file.open("rb", buffering=0) as opened:
        lines = []
        for name, (dtype, shape, begin, end) in tensors.items():
            opened.seek(begin)
            lines.append(f"{name} {dtype} {shape} {digest_of(opened, end - begin)}")
    return lines
