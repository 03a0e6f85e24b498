"""Small tokenizers made in memory, without files or downloads."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, END, USER, ASSISTANT = "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for m in messages %}"
    "{%- if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{- ('<|assistant|>' if m.role == 'assistant' else '<|user|>') + m.content + '<|end|>' }}"
    "{%- endfor %}{{- '<|assistant|>' if add_generation_prompt }}"
)


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: 4 special tokens, 256 bytes, a few merges that cut characters in two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [BOS, END, USER, ASSISTANT, *alphabet]
    merges: list[tuple[str, str]] = []
    for text in ("ab", "abc", " a", "th", "the"):
        marks = text.replace(" ", "Ġ")
        merges.append((marks[:-1], marks[-1]))
    for text in ("ä", "你", "🙂"):  # the first bytes only, so that characters span tokens
        marks = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)[0][0]
        merges.append((marks[0], marks[1]))
    names += ["".join(pair) for pair in merges]
    vocabulary = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@cache
def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 has it: words begin with a visible space, unknown characters become bytes."""
    words = ["▁", "▁a", "▁the", "a", "b", "c", "the", "."]
    names = ["<s>", "</s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    backend = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
