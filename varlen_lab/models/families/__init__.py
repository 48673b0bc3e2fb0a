"""The eleven families of XTuner's page, a table each; ``varlen_lab.models`` reads them, code branches on facts only.

A family module has ``VARIANTS`` (name -> what differs from the tiny defaults of ``models``), ``TEMPLATE`` (its chat
template) and, where the original checkpoints came with remote code, ``LAYOUTS``: how those folders map to the native
class (see ``layout``). A size or generation is a variant when its architecture differs, not when it is only larger.
"""

from varlen_lab.models.families import (
    baichuan,
    chatglm,
    deepseek,
    gemma,
    internlm,
    llama,
    mistral,
    qwen,
    starcoder,
    yi,
    zephyr,
)

FAMILIES = {
    "baichuan": baichuan,
    "chatglm": chatglm,
    "deepseek": deepseek,
    "gemma": gemma,
    "internlm": internlm,
    "llama": llama,
    "mistral": mistral,
    "qwen": qwen,
    "starcoder": starcoder,
    "yi": yi,
    "zephyr": zephyr,
}
LAYOUTS = {name: layout for family in FAMILIES.values() for name, layout in getattr(family, "LAYOUTS", {}).items()}
