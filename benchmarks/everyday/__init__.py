"""Which everyday settings keep packed documents apart? A table of own loops, HF Trainer and TRL, each really run.

    python -m benchmarks.everyday                # SmolLM2-135M-Instruct, a few minutes on one core
    python -m benchmarks.everyday --tiny         # a random tiny Llama: seconds
    python -m benchmarks.everyday --model DIR

Five documents are put into rows as each setting does it, and the model's logits of every document are compared with
those it gives the document alone. A trainer takes one step (with lr 0); its first forward call is what is looked at.
``loss`` is that of all tokens but the first of each document, so it is comparable where a setting trains on other
labels. Everything runs on transformers' own sdpa; nothing of varlen_lab is in the way.
"""
