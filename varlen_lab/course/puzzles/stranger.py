"""train.py, as a stranger sent it: a small model, packed rows, a loss that falls."""

import torch

from varlen_lab.models import tiny


def pack(documents, width):
    """Whole documents into rows of at most ``width`` tokens, in order."""
    rows: list = [[]]
    for ids in documents:
        if sum(map(len, rows[-1])) + min(len(ids), width) > width:
            rows.append([])
        rows[-1].append(ids[:width])
    return rows


def collate(row):
    """A row of documents as the model takes it."""
    ids = torch.tensor([token for document in row for token in document])[None]
    places = torch.cat([torch.arange(len(document)) for document in row])[None]
    labels = ids.clone()
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "position_ids": places, "labels": labels, "attention_mask": mask}


def mean_square(hidden):
    """How large the channels are: (rows, tokens, channels)."""
    return hidden.pow(2).mean(1, keepdim=True)


class Norm(torch.nn.Module):
    """A norm of our own, before the feed-forward part of a layer."""

    def __init__(self, inner, mean_square):
        super().__init__()
        self.inner, self.mean_square = inner, mean_square

    def forward(self, hidden):
        return self.inner(hidden / (self.mean_square(hidden) + 1e-6).sqrt())


def build(mean_square=mean_square):
    """Two layers; transformers' own attention."""
    model = tiny("llama", seed=0)
    model.set_attn_implementation("sdpa")
    model.model.layers[1].mlp = Norm(model.model.layers[1].mlp, mean_square)
    return model


def step_loss(losses, counts):
    """The loss of a step from those of its rows, which train ``counts`` tokens."""
    return sum(losses) / len(losses)


def train(rows, collate=collate, mean_square=mean_square, step_loss=step_loss, accumulate=2, watch=None):
    """Train on rows, some of them a step; the model, and the loss of every step."""
    model, history = build(mean_square), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for first in range(0, len(rows) - accumulate + 1, accumulate):
        batches = [collate(row) for row in rows[first : first + accumulate]]
        losses = [model(**batch).loss for batch in batches]
        counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
        loss = step_loss(losses, counts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        history.append(loss.item())
        if watch:
            watch(model)
    return model, history
