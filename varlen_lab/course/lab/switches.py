"""The twelve switches of the lab: records of the registry of faults, with the words a reader knows them by.

Texts are English and looked up when they are shown (``language.phrase``), so that one record serves every language.
"""

from __future__ import annotations

from dataclasses import dataclass

from varlen_lab.errors import unknown_choice
from varlen_lab.language.saying import LANGUAGES, catalogue, phrase
from varlen_lab.leaks.registry import FAULTS, Fault

GITHUB = "https://github.com/"


@dataclass(frozen=True)
class Switch:
    """One mistake of the lab. ``name``: its record in ``FAULTS``.

    ``label``: what it is called, ``deed``: what somebody did, ``sign``: how one sees it, ``fix``: how it is put right.
    """

    name: str
    label: str
    deed: str
    sign: str
    fix: str

    @property
    def fault(self) -> Fault:
        """The record that is planted."""
        return FAULTS[self.name]

    @property
    def source(self) -> str:
        """The public thread in which it was met: ``owner/repository#number``."""
        return self.fault.source

    @property
    def url(self) -> str:
        """The address of that thread; GitHub leads on from an issue's address to a pull request's."""
        repository, _, number = self.source.partition("#")
        return f"{GITHUB}{repository}/issues/{number}"

    def words(self) -> dict[str, str]:
        """Its four texts in the language spoken."""
        texts = {"label": self.label, "deed": self.deed, "sign": self.sign, "fix": self.fix}
        return {name: phrase(text) for name, text in texts.items()}


RECORDS = (
    Switch(
        "default use_cache",
        "cache left on",
        "The loop calls model(**batch) and says nothing of use_cache; the config's default is True, and with a cache "
        "transformers looks for no documents.",
        "every seam leaks, and use_cache is missing from the batch",
        "Pass use_cache=False.",
    ),
    Switch(
        "all-ones mask",
        "mask of ones",
        "The attention_mask of the tokenizer, 1 everywhere, comes along with the packed row. It masks nothing and "
        "switches off the search for documents.",
        "every seam leaks, and an attention_mask arrives that is 1 everywhere",
        "Leave attention_mask out of a packed batch.",
    ),
    Switch(
        "positions not restarted",
        "positions run on",
        "position_ids count to the end of the row, so that nothing tells the documents apart.",
        "every seam leaks, position_ids never go back to 0, and no cu_seq_lens_q comes in their place",
        "Let position_ids start again at 0 in every document; VarlenCollator does.",
    ),
    Switch(
        "seams ignored",
        "seams nobody reads",
        "cu_seq_lens_q says exactly where the documents are, and goes to sdpa, which does not read it.",
        "every seam leaks although cu_seq_lens_q is right, because the attention is sdpa",
        'Load the model with attn_implementation="varlen", or pass position_ids that restart.',
    ),
    Switch(
        "merged documents",
        "two documents merged",
        "The seam beside the one-token document is lost, and it becomes a part of the one before it.",
        "one seam is gone, the one before the one-token document; no loss moves, for one token trains nothing",
        "Make the seams from all lengths: Boundaries.from_lengths(lengths).",
    ),
    Switch(
        "seams a token late",
        "seams a token late",
        "Each length was counted with one token more than the document has, so that every seam lies a token late.",
        "the first token of a document belongs to the one before it, and its own document no longer hears it",
        "Count the tokens that stand in the row; VarlenCollator does.",
    ),
    Switch(
        "bidirectional",
        "not causal",
        "The kernel was not told to be causal, and its default is not.",
        "tokens hear later ones: the marks stand above the diagonal, and none crosses a seam",
        "Pass causal=True, or window_size=(-1, 0) to torch's varlen_attn.",
    ),
    Switch(
        "window one too wide",
        "window one too wide",
        "The config counts the token itself into its window, the kernel counts only the keys before it.",
        "only the far corner of the longest document changes: each layer hears one token further back",
        "A sliding_window of 6 is window_size=(5, 0) to a flash-attn kernel.",
    ),
    Switch(
        "one layer without seams",
        "one layer without seams",
        "Of two layers one makes its seams anew from a mask that knows none, and takes the row for one document.",
        "strangers are heard by the first five tokens behind a seam, as far as the window of one layer reaches",
        "Hand the seams to every layer: cu_seq_lens_q, to an attention that reads it.",
    ),
    Switch(
        "short convolution",
        "convolution over the seams",
        "A causal convolution of width 3 runs along the row and knows no seams.",
        "strangers are heard by the first two tokens of a document alone, for the convolution is three wide",
        "isolate(model) runs the layer document by document.",
    ),
    Switch(
        "border label",
        "label at the border",
        "labels = input_ids.clone(): the last token of a document is trained to predict the first of the next.",
        "the picture is right, and in the strip the last token of a document must predict a stranger's first",
        "Set the first label of every document to -100; VarlenCollator does.",
    ),
    Switch(
        "prompts trained",
        "prompts trained",
        "A mask says which tokens are answers, packing loses it, and the labels train the prompts too.",
        "the picture is right, and in the strip prompts are trained, where completion_mask is 0",
        "Give label -100 wherever completion_mask is 0; pack_dataset does.",
    ),
)

SWITCHES = {record.name: record for record in RECORDS}


def find_switch(name: str) -> Switch:
    """The switch of a name, an alias of the registry, or its label in any language; InputError for another word."""
    word = " ".join(str(name).split()).lower()
    for record in RECORDS:
        labels = [catalogue(language).get(record.label, record.label) for language in LANGUAGES]
        known = (record.name, *labels, *record.fault.aliases)
        if word in (each.lower() for each in known):
            return record
    raise unknown_choice("switch", str(name), SWITCHES)
