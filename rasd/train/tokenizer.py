"""The embedded model's tokenizer: byte-level BPE with a chat template, in Hugging Face layout."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rasd.train.files import staged

VOCABULARY = 5120
MAX_LENGTH = 2048
"""Positions the embedded target was trained for."""

BOS, END, USER, ASSISTANT = "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"
"""Special tokens, ids 0 to 3 in this order. END closes a turn and a document."""

# A system message is put before the first user message, in the same turn.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}
{%- set ns.system = ns.system + message.content + '\\n\\n' %}
{%- elif message.role == 'user' %}
{{- '<|user|>' + ns.system + message.content + '<|end|>' }}
{%- set ns.system = '' %}
{%- elif message.role == 'assistant' %}
{{- '<|assistant|>' }}
{%- generation %}{{ message.content + '<|end|>' }}{% endgeneration %}
{%- else %}
{{- raise_exception('unknown role: ' + message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Learn merges from `texts`; the same texts always give the same tokenizer.

    Calling the result on text puts BOS in front, as Llama's does; `apply_chat_template` puts its
    own. Texts of a corpus are encoded with `add_special_tokens=False`.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A",
                pair=f"{BOS} $A $B",
                special_tokens=[(BOS, bpe.token_to_id(BOS))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, the chat template inside the latter."""
    for key in ("is_local", "local_files_only"):  # how it was loaded here is nobody's business
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(directory, save_jinja_files=False)


def publish_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write the tokenizer's files into `directory`, each replaced at once."""
    with staged(directory) as staging:
        save_tokenizer(tokenizer, staging)
