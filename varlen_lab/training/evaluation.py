"""How good is the model now? The loss of documents it never trained on, and what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.training.engines import Engine
from varlen_lab.training.lazily import Step
from varlen_lab.training.plan import row_totals, share
from varlen_lab.training.step import batch_counts, batched, collator, over_processes, token_loss_sum
from varlen_lab.training.stopping import stop_ids

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def held_out_loss(engine: Engine, rows: Dataset, config: Config, pad_token_id: int) -> float:
    """Mean loss per trained token of rows, in nats; every document by itself, whatever the mode of training.

    In varlen mode the rows are packed, in the other two each document has a line of its own: the number is the same.
    """
    accelerator = engine.accelerator
    mode = "varlen" if config.mode == "varlen" else "unpacked"
    numbers = list(range(len(rows)))
    # one step of all batches: share() then gives every process as many, and none waits alone at the end
    whole: list[Step] = [[numbers[i : i + config.batch_size] for i in range(0, len(rows), config.batch_size)]]
    mine = share(whole, row_totals(rows)[1], accelerator.num_processes, accelerator.process_index, config.batch_size)
    losses, trained = [], 0.0
    engine.model.eval()
    with torch.no_grad():
        for batches in batched(rows, mine, collator(mode, pad_token_id)):
            for batch in batches:
                trained += float(batch_counts(batch)[1])
                losses.append(token_loss_sum(engine.model, batch.to(accelerator.device)))
    engine.model.train()
    loss = 0.0  # in float64: the sums of thousands of batches, one over the other
    for one in losses:  # read only now: the CPU waits for the device once
        loss += float(one)
    loss, trained = over_processes(accelerator, torch.tensor([loss, trained], dtype=torch.float64)).tolist()
    return loss / max(trained, 1)


def answers(engine: Engine, tokenizer: PreTrainedTokenizerBase, config: Config, pad_token_id: int) -> list[str]:
    """What the model says to ``evaluation_inputs`` now: greedy, up to its end mark, at most 48 tokens.

    Called in all processes.
    """
    from varlen_lab.documents.prompts import prompt_ids

    model: Any = engine.unwrapped_model
    stops = stop_ids(model.generation_config, tokenizer, config.prompt_template)
    model.eval()
    said = []
    for question in config.evaluation_inputs:
        ids = prompt_ids(
            question,
            tokenizer,
            config.prompt_template,
            system=config.SYSTEM,
            special_tokens_in_text=config.special_tokens_in_text,
        )
        ids = ids.to(engine.accelerator.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                # said, or transformers would guess it from where the padding id stands
                attention_mask=torch.ones_like(ids),
                max_new_tokens=48,
                do_sample=False,
                # no process may stop before the others: where weights are shared out each waits for all of them
                synced_gpus=engine.accelerator.num_processes > 1,
                pad_token_id=pad_token_id,
                eos_token_id=stops,
            )
        said.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    model.train()
    return said
