"""Does it matter for my model? Four trainings of a real checkpoint that differ in what a token sees, nothing else.

    python -m benchmarks.real_effect                       # SmolLM2-135M-Instruct, hours on two cores
    python -m benchmarks.real_effect --quick               # two arms, one seed, six steps: minutes
    python -m benchmarks.real_effect --model DIR --data FILE.jsonl

All arms start from the same weights and take the same documents in each step:

``unpacked``     each document alone, as varlen must come out
``packed``       several documents a row, positions run through, each token sees the whole row before it
``restarting``   the same rows, position ids restart at each document and every token sees the whole row before it all
                 the same: what a loop of one's own trains that hands a flattening collator's batch to stock sdpa with
                 the cache on, or with a mask of ones
``varlen``       the same rows with seams

Every arm is judged by the loss of documents it never trained on, each *alone*, as somebody will ask the model later.
Beside it stands what the same changes do to the answers' loss before any training (``forward``).
"""
