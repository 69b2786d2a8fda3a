"""Tokenizers and text encoders of tiny pipelines: real classes, a vocabulary of our own, random weights."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

WORDS = (
    "a an the red green blue yellow circle square triangle above below left right of and on photo cat "
    "dog small large"
).split()
LENGTH = 16  # tokens of a prompt


def clip_tokenizer(words: Sequence[str] = WORDS, length: int = LENGTH) -> Any:
    """A CLIP tokenizer whose vocabulary holds letters and some words.

    Arguments:
        words: each one token.
        length: most tokens of a prompt.

    Returns:
        The tokenizer.
    """
    from transformers import CLIPTokenizer

    pieces = [
        *string.ascii_lowercase,
        *string.digits,
        *(f"{c}</w>" for c in string.ascii_lowercase + string.digits + ".,!?"),
    ]
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:  # a word is put together from the left
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces.append(parts[0])
    ends = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *ends]))}
    ordered: list[Any] = list(dict.fromkeys(merges))
    return CLIPTokenizer(vocab=vocabulary, merges=ordered, model_max_length=length)


def clip(projection: bool = False, width: int = 16) -> tuple[Any, Any]:
    """A tokenizer and a CLIP text model.

    Arguments:
        projection: the pooled output is projected.
        width: of the tokens.

    Returns:
        Tokenizer and model.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5(width: int = 48) -> tuple[Any, Any]:
    """A T5 tokenizer whose vocabulary holds letters and :data:`WORDS`, and its encoder."""
    from transformers import T5Config, T5EncoderModel
    from transformers import T5TokenizerFast as T5Tokenizer  # type: ignore[attr-defined]  # a lazy attribute

    letters = string.ascii_lowercase + string.digits + ".,!?-:"
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -4.0) for c in letters),
        *((f"▁{w}", -1.0) for w in WORDS[1:]),
    ]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(
        vocab_size=len(pieces),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return tokenizer, T5EncoderModel(config).eval()


def gemma(width: int = 16) -> tuple[Any, Any]:
    """A Gemma tokenizer of single letters, and a small Gemma 2."""
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    ends = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {piece: i for i, piece in enumerate([*ends, "▁", *string.printable.strip()])}
    config = Gemma2Config(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        query_pre_attn_scalar=8,
    )
    return GemmaTokenizer(vocab=vocabulary, model_max_length=300), Gemma2Model(config).eval()
