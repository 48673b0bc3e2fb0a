"""What this room knows by name: chat templates, shapes of a record, endings of data files. Facts, no code.

A new template, shape or file format is one row here. Functions are named as ``"module:function"`` and imported when a
record or a file needs them, so that settings can offer the names without loading what reads the data.
"""

from __future__ import annotations

from dataclasses import dataclass

# ------------------------------------------------------------------------------------------------- chat templates

OF_TOKENIZER = "tokenizer"  # the prompt_template that is no row below: the template inside the tokenizer itself


@dataclass(frozen=True)
class Template:
    """The strings around a turn (XTuner's ``SYSTEM``, ``INSTRUCTION``, ``SUFFIX``, ``SEP``).

    ``end`` stands behind an answer and is trained on, like the answer; ``{eos}`` is the tokenizer's end token. ``sep``
    stands behind every finished turn and is not trained on.
    """

    about: str  # whose format it is
    system: str = ""
    instruction: str = "{input}"
    end: str = "{eos}"
    sep: str = "\n"


CHATML = Template(
    about="ChatML: InternLM 2, Qwen, Yi (XTuner trains Yi on default)",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    instruction="<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
)
INST = Template(
    about="Mistral, Mixtral, DeepSeek MoE",
    system="[INST] {system} [/INST]\n",
    instruction="[INST] {input} [/INST]",
)

TEMPLATES: dict[str, Template] = {
    "default": Template(
        about="XTuner's marks for a base model",
        system="<|System|>:{system}\n",
        instruction="<|User|>:{input}\n<|Bot|>:",
    ),
    "internlm_chat": Template(
        about="InternLM",
        system="<|System|>:{system}\n",
        instruction="<|User|>:{input}<eoh>\n<|Bot|>:",
        end="<eoa>",
    ),
    "internlm2_chat": CHATML,
    "llama2_chat": Template(
        about="Llama 2, with Meta's safety text in front of a system message",
        system="[INST] <<SYS>>\n You are a helpful, respectful and honest assistant. Always answer as helpfully as "
        "possible, while being safe. Your answers should not include any harmful, unethical, racist, sexist, toxic, "
        "dangerous, or illegal content. Please ensure that your responses are socially unbiased and positive in "
        "nature.\n{system}\n<</SYS>>\n [/INST] ",
        instruction="[INST] {input} [/INST]",
    ),
    "llama3_chat": Template(
        about="Llama 3",
        system="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        instruction="<|start_header_id|>user<|end_header_id|>\n\n{input}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        sep="",
    ),
    "mistral": INST,
    "mixtral": INST,
    "zephyr": Template(
        about="Zephyr",
        system="<|system|>\n{system}\n",
        instruction="<|user|>\n{input}\n<|assistant|>\n",
    ),
    "qwen_chat": CHATML,
    "chatglm2": Template(
        about="ChatGLM 2, turns numbered",
        system="{system}\n",
        instruction="[Round {round}]\n\n问：{input}\n\n答：",
        sep="\n\n",
    ),
    "chatglm3": Template(
        about="ChatGLM 3",
        system="<|system|>\n{system}",
        instruction="<|user|>\n{input}<|assistant|>\n",
    ),
    "baichuan_chat": Template(
        about="Baichuan", system="{system}\n", instruction="<reserved_102>{input}<reserved_103>", sep="\n"
    ),
    "baichuan2_chat": Template(
        about="Baichuan 2", system="{system}\n", instruction="<reserved_106>{input}<reserved_107>", sep="\n"
    ),
    "gemma": Template(
        about="Gemma",
        system="<start_of_turn>system\n{system}<end_of_turn>\n",
        instruction="<start_of_turn>user\n{input}<end_of_turn>\n<start_of_turn>model\n",
        end="<end_of_turn>{eos}",
    ),
    "deepseek_coder": Template(
        about="DeepSeek Coder",
        system="You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek "
        "Company, and you only answer questions related to computer science. For politically sensitive questions, "
        "security and privacy issues, and other non-computer science questions, you will refuse to answer. "
        "{system}\n",
        instruction="### Instruction:\n{input}\n### Response:\n",
    ),
    "deepseek_moe": INST,
    "deepseek_v2": Template(
        about="DeepSeek V2",
        system="{system}\n\n",
        instruction="User: {input}\n\nAssistant: ",
        end="<｜end▁of▁sentence｜>",
        sep="",
    ),
    "starcoder_chat": Template(
        about="StarChat (XTuner trains StarCoder on default)",
        system="<|system|>\n{system}<|end|>\n",
        instruction="<|user|>\n{input}<|end|>\n<|assistant|>\n",
        end="<|end|>",
    ),
    "yi": CHATML,
    "plain": Template(about="no marks but the end of an answer: for text that is continued", system="{system}", sep=""),
    "moss_sft": Template(
        about="MOSS, whose data has its own marks",
        system="{system}\n",
        instruction="<|Human|>: {input}<eoh>\n",
    ),
    "wizardlm": Template(
        about="WizardLM",
        system="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. {system}\n ",
        instruction="USER: {input} ASSISTANT:",
    ),
}

# -------------------------------------------------------------------------------------------- shapes of a record


@dataclass(frozen=True)
class Shape:
    """How a kind of record is known and read: one that holds all of ``fields`` goes to ``function(record, shape)``.

    ``function`` gives the turns as (role, content) pairs, not yet checked, and raises BadRecord for what it cannot
    read. The other fields are names that a function looks for in a record.
    """

    fields: tuple[str, ...]
    function: str
    about: str
    role: str = "role"  # in a list of messages: the key of who speaks
    content: str = "content"  # and of what is said
    optional: str = ""  # a column that continues the question, where it is filled
    system: str = ""  # a column with the system message


MESSAGES = "varlen_lab.documents.reading:from_messages"  # the first of the fields is a list of messages
COLUMNS = "varlen_lab.documents.shapes:from_columns"  # the last of the fields is the answer

# The first that fits is taken. What a record of each looks like is said where it is read.
SHAPES: dict[str, Shape] = {
    "messages": Shape(("messages",), MESSAGES, about="role and content, as in transformers"),
    "sharegpt": Shape(("conversations",), MESSAGES, about="ShareGPT", role="from", content="value"),
    "xtuner": Shape(("conversation",), "varlen_lab.documents.shapes:from_xtuner", about="XTuner's own"),
    "moss": Shape(("meta_instruction", "chat"), "varlen_lab.documents.agents:from_moss", about="moss-003-sft-data"),
    "alpaca_zh": Shape(("instruction_zh", "output_zh"), COLUMNS, about="alpaca-gpt4-chinese", optional="input_zh"),
    "alpaca": Shape(("instruction", "output"), "varlen_lab.documents.shapes:from_alpaca", "Alpaca", optional="input"),
    "guanaco": Shape(("text",), "varlen_lab.documents.shapes:from_guanaco", about="Guanaco"),
    "sql": Shape(("context", "question", "answer"), COLUMNS, about="sql-create-context"),
    "orca": Shape(("question", "response"), COLUMNS, about="OpenOrca, Stack Exchange", system="system_prompt"),
    "law": Shape(("question", "answer"), COLUMNS, about="law"),
    "completion": Shape(("prompt", "completion"), COLUMNS, about="CodeAlpaca"),
    "response": Shape(("prompt", "response"), COLUMNS, about="tiny-codes"),
    "colors": Shape(("description", "color"), "varlen_lab.documents.shapes:from_colors", about="colors"),
    "title": Shape(("abstract", "title"), COLUMNS, about="arXiv"),
    "crime": Shape(("input", "output"), COLUMNS, about="CrimeKgAssitant"),
}

# dataset_map_fn -> the shapes it looks for: "auto" tells a record by its fields, the others cannot be told by them
MAP_FNS: dict[str, dict[str, Shape]] = {
    "auto": SHAPES,
    "pretrain": {"text": Shape(("text",), "varlen_lab.documents.shapes:from_text", "text, trained on whole")},
    "msagent_react": {
        "msagent": Shape(("conversations",), "varlen_lab.documents.agents:from_msagent", "MSAgent-Bench")
    },
}

# ------------------------------------------------------------------------------------------------------ data files

# ending -> function(path) that gives (place, record) pairs
READERS: dict[str, str] = {
    ".jsonl": "varlen_lab.documents.reading:jsonl_records",
    ".json": "varlen_lab.documents.formats:json_records",
    ".parquet": "varlen_lab.documents.formats:parquet_records",
    ".csv": "varlen_lab.documents.formats:csv_records",
}
