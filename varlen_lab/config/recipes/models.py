"""The models XTuner has configs for, of our eleven families; and the tiny ones of our own.

Facts about each: where it lies on the hub, its family, how large it is, how a dialogue is written for it.
"""

from __future__ import annotations

from typing import NamedTuple


class Model(NamedTuple):
    """One row: hub name, family, billions of parameters, chat template (XTuner's choice)."""

    path: str
    family: str
    billions: float
    template: str


MODELS: dict[str, Model] = {
    "baichuan2_13b_base": Model("baichuan-inc/Baichuan2-13B-Base", "baichuan", 13, "default"),
    "baichuan2_13b_chat": Model("baichuan-inc/Baichuan2-13B-Chat", "baichuan", 13, "baichuan2_chat"),
    "baichuan2_7b_base": Model("baichuan-inc/Baichuan2-7B-Base", "baichuan", 7, "default"),
    "baichuan2_7b_chat": Model("baichuan-inc/Baichuan2-7B-Chat", "baichuan", 7, "baichuan2_chat"),
    "baichuan_13b_base": Model("baichuan-inc/Baichuan-13B-Base", "baichuan", 13, "default"),
    "baichuan_13b_chat": Model("baichuan-inc/Baichuan-13B-Chat", "baichuan", 13, "baichuan_chat"),
    "baichuan_7b": Model("baichuan-inc/Baichuan-7B", "baichuan", 7, "default"),
    "chatglm2_6b": Model("THUDM/chatglm2-6b", "chatglm", 6, "chatglm2"),
    "chatglm3_6b": Model("THUDM/chatglm3-6b", "chatglm", 6, "chatglm3"),
    "chatglm3_6b_base": Model("THUDM/chatglm3-6b-base", "chatglm", 6, "chatglm3"),
    "deepseek_coder_6_7b_base": Model("deepseek-ai/deepseek-coder-6.7b-base", "deepseek", 6.7, "deepseek_coder"),
    "deepseek_moe_16b_base": Model("deepseek-ai/deepseek-moe-16b-base", "deepseek", 16, "deepseek_moe"),
    "deepseek_moe_16b_chat": Model("deepseek-ai/deepseek-moe-16b-chat", "deepseek", 16, "deepseek_moe"),
    "deepseek_v2_chat": Model("deepseek-ai/DeepSeek-V2-Chat", "deepseek", 236, "deepseek_v2"),
    "deepseek_v2_lite_chat": Model("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek", 15.7, "deepseek_v2"),
    "deepseekcoder_6_7b_instruct": Model("deepseek-ai/deepseek-coder-6.7b-instruct", "deepseek", 6.7, "deepseek_coder"),
    "gemma_2b": Model("google/gemma-2b", "gemma", 2, "default"),
    "gemma_2b_it": Model("google/gemma-2b-it", "gemma", 2, "gemma"),
    "gemma_7b": Model("google/gemma-7b", "gemma", 7, "default"),
    "gemma_7b_it": Model("google/gemma-7b-it", "gemma", 7, "gemma"),
    "internlm2_1_8b": Model("internlm/internlm2-1_8b", "internlm", 1.8, "default"),
    "internlm2_20b": Model("internlm/internlm2-20b", "internlm", 20, "default"),
    "internlm2_5_chat_7b": Model("internlm/internlm2_5-7b-chat", "internlm", 7, "internlm2_chat"),
    "internlm2_7b": Model("internlm/internlm2-7b", "internlm", 7, "default"),
    "internlm2_chat_1_8b": Model("internlm/internlm2-chat-1_8b", "internlm", 1.8, "internlm2_chat"),
    "internlm2_chat_20b": Model("internlm/internlm2-chat-20b", "internlm", 20, "internlm2_chat"),
    "internlm2_chat_7b": Model("internlm/internlm2-chat-7b", "internlm", 7, "internlm2_chat"),
    "internlm_20b": Model("internlm/internlm-20b", "internlm", 20, "default"),
    "internlm_7b": Model("internlm/internlm-7b", "internlm", 7, "default"),
    "internlm_chat_20b": Model("internlm/internlm-chat-20b", "internlm", 20, "internlm_chat"),
    "internlm_chat_7b": Model("internlm/internlm-chat-7b", "internlm", 7, "internlm_chat"),
    "llama2_70b": Model("meta-llama/Llama-2-70b-hf", "llama", 70, "llama2_chat"),
    "llama2_70b_int8": Model("meta-llama/Llama-2-70b-hf", "llama", 70, "llama2_chat"),
    "llama2_7b": Model("meta-llama/Llama-2-7b-hf", "llama", 7, "llama2_chat"),
    "llama2_7b_chat": Model("meta-llama/Llama-2-7b-chat-hf", "llama", 7, "llama2_chat"),
    "llama3_70b_instruct": Model("meta-llama/Meta-Llama-3-70B-Instruct", "llama", 70, "llama3_chat"),
    "llama3_8b": Model("meta-llama/Meta-Llama-3-8B", "llama", 8, "llama3_chat"),
    "llama3_8b_instruct": Model("meta-llama/Meta-Llama-3-8B-Instruct", "llama", 8, "llama3_chat"),
    "llama_7b": Model("huggyllama/llama-7b", "llama", 7, "default"),
    "mistral_7b": Model("mistralai/Mistral-7B-v0.1", "mistral", 7, "default"),
    "qwen1_5_0_5b": Model("Qwen/Qwen1.5-0.5B", "qwen", 0.5, "default"),
    "qwen1_5_0_5b_chat": Model("Qwen/Qwen1.5-0.5B-Chat", "qwen", 0.5, "qwen_chat"),
    "qwen1_5_110b": Model("Qwen/Qwen1.5-110B", "qwen", 110, "default"),
    "qwen1_5_110b_chat": Model("Qwen/Qwen1.5-110B-Chat", "qwen", 110, "qwen_chat"),
    "qwen1_5_14b": Model("Qwen/Qwen1.5-14B", "qwen", 14, "default"),
    "qwen1_5_14b_chat": Model("Qwen/Qwen1.5-14B-Chat", "qwen", 14, "qwen_chat"),
    "qwen1_5_1_8b": Model("Qwen/Qwen1.5-1.8B", "qwen", 1.8, "default"),
    "qwen1_5_1_8b_chat": Model("Qwen/Qwen1.5-1.8B-Chat", "qwen", 1.8, "qwen_chat"),
    "qwen1_5_4b": Model("Qwen/Qwen1.5-4B", "qwen", 4, "default"),
    "qwen1_5_4b_chat": Model("Qwen/Qwen1.5-4B-Chat", "qwen", 4, "qwen_chat"),
    "qwen1_5_72b": Model("Qwen/Qwen1.5-72B", "qwen", 72, "default"),
    "qwen1_5_72b_chat": Model("Qwen/Qwen1.5-72B-Chat", "qwen", 72, "qwen_chat"),
    "qwen1_5_7b": Model("Qwen/Qwen1.5-7B", "qwen", 7, "default"),
    "qwen1_5_7b_chat": Model("Qwen/Qwen1.5-7B-Chat", "qwen", 7, "qwen_chat"),
    "qwen_1_8b": Model("Qwen/Qwen-1_8B", "qwen", 1.8, "default"),
    "qwen_1_8b_chat": Model("Qwen/Qwen-1_8B-Chat", "qwen", 1.8, "qwen_chat"),
    "qwen_72b": Model("Qwen/Qwen-72B", "qwen", 72, "default"),
    "qwen_7b": Model("Qwen/Qwen-7B", "qwen", 7, "default"),
    "qwen_7b_chat": Model("Qwen/Qwen-7B-Chat", "qwen", 7, "qwen_chat"),
    "starcoder": Model("bigcode/starcoder", "starcoder", 15.5, "default"),
    "yi_34b": Model("01-ai/Yi-34B", "yi", 34, "default"),
    "yi_6b": Model("01-ai/Yi-6B", "yi", 6, "default"),
    "zephyr_7b_beta": Model("HuggingFaceH4/zephyr-7b-beta", "zephyr", 7, "zephyr"),
}

# Newer models that XTuner 0.1 has no configs for. "tokenizer" is the chat template a model brings itself.
MODERN: dict[str, Model] = {
    "deepseek_v2_lite": Model("deepseek-ai/DeepSeek-V2-Lite", "deepseek", 15.7, "default"),
    "gemma2_9b_it": Model("google/gemma-2-9b-it", "gemma", 9.2, "gemma"),
    "gemma3_1b_it": Model("google/gemma-3-1b-it", "gemma", 1, "gemma"),
    "internlm2_5_7b": Model("internlm/internlm2_5-7b", "internlm", 7.7, "default"),
    "internlm3_8b_instruct": Model("internlm/internlm3-8b-instruct", "internlm", 8.8, "internlm2_chat"),
    "llama3_1_8b_instruct": Model("meta-llama/Llama-3.1-8B-Instruct", "llama", 8, "llama3_chat"),
    "llama3_2_1b_instruct": Model("meta-llama/Llama-3.2-1B-Instruct", "llama", 1.2, "llama3_chat"),
    "qwen2_7b_instruct": Model("Qwen/Qwen2-7B-Instruct", "qwen", 7.6, "qwen_chat"),
    "qwen2_5_0_5b_instruct": Model("Qwen/Qwen2.5-0.5B-Instruct", "qwen", 0.5, "qwen_chat"),
    "qwen2_5_7b_instruct": Model("Qwen/Qwen2.5-7B-Instruct", "qwen", 7.6, "qwen_chat"),
    "qwen3_8b": Model("Qwen/Qwen3-8B", "qwen", 8.2, "qwen_chat"),
}
