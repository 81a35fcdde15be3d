"""Tokenizers that replace those whose vocabularies must be downloaded: one token per byte.

Special ids, context lengths and the side of the padding are those of the published ones, so prompts have their shapes,
though not their words.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

CLIP_VOCABULARY = 49_408
CLIP_LENGTH = 77
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""How a chat of Qwen's models is written."""


def clip() -> CLIPTokenizer:
    """CLIP's without its merges, the rest of its vocabulary unused."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    unused = [f"<|unused-{number}|>" for number in range(CLIP_VOCABULARY - 2 - len(known))]
    words = [*known, *unused, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        model_max_length=CLIP_LENGTH,
    )


def t5() -> PreTrainedTokenizerFast:
    """T5's and UMT5's, which end each text."""
    return _bytes(["<pad>", "</s>", "<unk>"], pad="<pad>", eos="</s>", length=512, ends=True)


def gemma() -> PreTrainedTokenizerFast:
    """Gemma 2's, which begins each text."""
    return _bytes(
        ["<pad>", "<eos>", "<bos>", "<unk>"], pad="<pad>", eos="<eos>", bos="<bos>", length=8192
    )


def qwen() -> PreTrainedTokenizerFast:
    """Qwen 2.5's and 3's, with their chats."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _bytes(special, pad="<|endoftext|>", eos="<|im_end|>", length=32_768)
    tokenizer.chat_template = CHAT
    return tokenizer


TOKENIZERS: Mapping[str, Callable[[], Any]] = {"clip": clip, "t5": t5, "gemma": gemma, "qwen": qwen}
"""The stand-ins by family."""


def _bytes(
    special: list[str],
    *,
    pad: str,
    eos: str,
    length: int,
    bos: str | None = None,
    ends: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose first ids are the special tokens."""
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    numbers = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.BPE(vocab=numbers, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if bos or ends:
        around = [bos] if bos else []
        after = [eos] if ends else []
        inner.post_processor = processors.TemplateProcessing(
            single=" ".join([*around, "$A", *after]),
            special_tokens=[(word, numbers[word]) for word in [*around, *after]],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        eos_token=eos,
        bos_token=bos,
        additional_special_tokens=special,
        model_max_length=length,
        padding_side="right",
    )
