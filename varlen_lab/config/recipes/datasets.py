"""The datasets XTuner's names speak of: where they lie, the system prompt and the questions that go with them.

What a record looks like is told from its fields by ``documents.records``; where they do not tell, a row here names the
``dataset_map_fn``, as XTuner's files do.
"""

from __future__ import annotations

from typing import Any

from varlen_lab.config.recipes.react import SEARCH_AND_PYTHON, react_prompt

SHANGHAI = ["请给我介绍五个上海的景点", "Please tell me five scenic spots in Shanghai"]
ALPACA, ALPACA_ZH = "tatsu-lab/alpaca", "silk-road/alpaca-data-gpt4-chinese"
OASST1 = "timdettmers/openassistant-guanaco"
INSTRUCTED = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n"
)
CODER = "You are a professional programer. Please provide the corresponding code based on the description of Human.\n"
COLOUR_CODE = [
    "写一个Python函数，将十六进制颜色代码（如#0066ee）转换为对应的红、绿、蓝（RGB）三个颜色分量值，并以元组的形式返回。",
    "Write a Python function that takes a hexadecimal color code (e.g., #0066ee) as input and converts it into the "
    "corresponding red, green, and blue (RGB) color component values.",
]
MOSS_TOOLS = (
    "./data/conversations_with_tools_with_inner_instruction_no_text2image_train_all_random_meta0.5_0.1_0.01_"
    "moss_0709.jsonl"
)
MOSS: dict[str, Any] = {
    "SYSTEM": "You are an AI assistant whose name is MOSS.\n"
    "Capabilities and tools that MOSS can possess.\n"
    "- Inner thoughts: enabled.\n"
    "- Web search: enabled. API: Search(query)\n"
    "- Calculator: enabled. API: Calculate(expression)\n"
    "- Equation solver: enabled. API: Solve(equation)\n"
    "- Text-to-image: disabled.\n"
    "- Image edition: disabled.\n"
    "- Text-to-speech: disabled.\n",
    "prompt_template": "moss_sft",
    "pack_to_max_length": False,
    "evaluation_inputs": [
        "一个球体的表面积是384平方厘米，求它的体积。",
        "今有鸡兔同笼，上有二十头，下有六十二足， 问鸡兔各几何？",
        "介绍一下比尔盖茨",
    ],
}

# name -> the settings it decides; evaluation_inputs are SHANGHAI where it does not say
DATASETS: dict[str, dict[str, Any]] = {
    "alpaca": {"data_path": ALPACA, "SYSTEM": INSTRUCTED},
    "alpaca_zh": {"data_path": ALPACA_ZH, "SYSTEM": INSTRUCTED},
    "alpaca_enzh": {"data_path": [ALPACA, ALPACA_ZH], "SYSTEM": INSTRUCTED},
    "alpaca_enzh_oasst1": {"data_path": [ALPACA, ALPACA_ZH, OASST1], "SYSTEM": INSTRUCTED},
    "oasst1": {"data_path": OASST1},
    "oasst1_512": {"data_path": OASST1, "max_length": 512, "pack_to_max_length": False},
    "oasst1_mmlu": {"data_path": OASST1},
    "arxiv_gentitle": {
        "data_path": "./data/arxiv_data.json",
        "SYSTEM": "If you are an expert in writing papers, please generate a good paper title for this paper based on "
        "other authors' descriptions of their abstracts.\n",
        "evaluation_inputs": [
            "We present InternLM, a multilingual foundational language model with 104B parameters. InternLM is "
            "pre-trained on a large corpora with 1.6T tokens with a multi-phase progressive process, and then "
            "fine-tuned to align with human preferences. We also developed a training system called Uniscale-LLM "
            "for efficient large language model training. The evaluation on a number of benchmarks shows that "
            "InternLM achieves state-of-the-art performance in multiple aspects, including knowledge "
            "understanding, reading comprehension, mathematics, and coding. With such well-rounded capabilities, "
            "InternLM achieves outstanding performances on comprehensive exams, including MMLU, AGIEval, C-Eval "
            "and GAOKAO-Bench, without resorting to external tools. On these benchmarks, InternLM not only "
            "significantly outperforms open-source models, but also obtains superior performance compared to "
            "ChatGPT. Also, InternLM demonstrates excellent capability of understanding Chinese language and "
            "Chinese culture, which makes it a suitable foundation model to support Chinese-oriented language "
            "applications. This manuscript gives a detailed study of our results, with benchmarks and examples "
            "across a diverse set of knowledge domains and tasks.",
            "In this work, we develop and release Llama 2, a collection of pretrained and fine-tuned large "
            "language models (LLMs) ranging in scale from 7 billion to 70 billion parameters.\nOur fine-tuned "
            "LLMs, called LLAMA 2-CHAT, are optimized for dialogue use cases. Our models outperform open-source "
            "chat models on most benchmarks we tested, and based on our human evaluations for helpfulness and "
            "safety, may be a suitable substitute for closedsource models. We provide a detailed description of "
            "our approach to fine-tuning and safety improvements of LLAMA 2-CHAT in order to enable the community "
            "to build on our work and contribute to the responsible development of LLMs.",
        ],
    },
    "code_alpaca": {
        "data_path": "HuggingFaceH4/CodeAlpaca_20K",
        "SYSTEM": CODER,
        "evaluation_freq": 100,
        "evaluation_inputs": COLOUR_CODE,
    },
    "colorist": {
        "data_path": "burkelibbey/colors",
        "SYSTEM": "You are a professional color designer. Please provide the corresponding colors based on the "
        "description of Human.\n",
        "evaluation_freq": 200,
        "evaluation_inputs": ["请给我一个像天空一样清澈透明的蓝色。", "Please give me a clear blue like the sky."],
    },
    "lawyer": {
        "data_path": ["./data/CrimeKgAssitant清洗后_52k.json", "./data/训练数据_带法律依据_92k.json"],
        "SYSTEM": "你现在是一名专业的中国律师，请根据用户的问题给出准确、有理有据的回复。\n",
        "evaluation_inputs": ["请问离婚需要准备什么材料？", "销售鳄鱼皮包违法吗？"],
    },
    "medical": {
        "data_path": "shibing624/medical",
        "SYSTEM": "如果你是一名医生，请根据患者的描述回答医学问题。\n",
        "evaluation_inputs": [
            "我有家族遗传性的过敏，请问可以可以献血吗？",
            "我爷爷有高血压，请问他可以喝咖啡吗？",
            "我女儿今年3岁了，从昨天晚上九点开始腹泻，到现在已经八个小时了，请问应该怎么办？",
        ],
    },
    "moss_sft_all": {"data_path": ["./data/moss-003-sft-no-tools.jsonl", MOSS_TOOLS], **MOSS},
    "moss_sft_plugins": {"data_path": MOSS_TOOLS, **MOSS},
    "msagent_react": {
        "data_path": "damo/MSAgent-Bench",
        "dataset_map_fn": "msagent_react",
        "SYSTEM": react_prompt(SEARCH_AND_PYTHON),
        "pack_to_max_length": False,
        "evaluation_inputs": ["上海明天天气怎么样？"],
    },
    "open_platypus": {"data_path": "garage-bAInd/Open-Platypus", "SYSTEM": INSTRUCTED},
    "openorca": {"data_path": "Open-Orca/OpenOrca", "evaluation_freq": 5000},
    "skypile_pretrain": {
        "data_path": "Skywork/SkyPile-150B",
        "dataset_map_fn": "pretrain",
        "prompt_template": "plain",
        "evaluation_inputs": ["上海的景点有"],
    },
    "sql": {
        "data_path": "b-mc2/sql-create-context",
        "SYSTEM": "If you are an expert in SQL, please generate a good SQL Query for Question based on the CREATE "
        "TABLE statement.\n",
        "evaluation_inputs": [
            "CREATE TABLE station (name VARCHAR, lat VARCHAR, city VARCHAR)\nFind the name, latitude, and city of "
            "stations with latitude above 50.",
            "CREATE TABLE weather (zip_code VARCHAR, mean_visibility_miles INTEGER)\n"
            "找到mean_visibility_miles最大的zip_code。",
        ],
    },
    "stack_exchange_example": {
        "data_path": "ArmelR/stack-exchange-instruction",
        "evaluation_inputs": [
            'from typing import List def has_close_elements(numbers: List[float], threshold: float) -> bool: """ '
            "Check if in given list of numbers, are any two numbers closer to each other than given threshold. >>> "
            "has_close_elements([1.0, 2.0, 3.0], 0.5) False >>> has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], "
            '0.3) True """',
        ],
    },
    "tiny_codes": {"data_path": "nampdn-ai/tiny-codes", "SYSTEM": CODER, "evaluation_inputs": COLOUR_CODE},
    "wizardlm": {"data_path": "WizardLM/WizardLM_evol_instruct_V2_196k"},
}
