"""Do other people's trainers keep packed documents apart: TRL, axolotl, LLaMA-Factory, ms-swift, unsloth, torchtune.

Each stack that is installed trains one step on six short documents, with its own data pipeline and its own trainer, on
a tiny Llama on the CPU in fp32. What it passes to its model is compared with every document alone, and audited.

  python -m benchmarks.stacks               what is installed here, measured
  python -m benchmarks.stacks --only TRL    one stack
  python -m benchmarks.stacks --save        also write docs/stacks.json and the tables of docs/stacks.md

Stacks pin versions that exclude one another, so give each an environment of its own, with varlen_lab on its path; a run
with --save leaves what it could not measure as it was. What a stack does on a GPU alone is cited in docs/stacks.json.
"""
