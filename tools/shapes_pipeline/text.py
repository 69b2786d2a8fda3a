"""The text encoder of the shipped pipeline: a small CLIP, which first learns to name the parts of a
caption."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.draws import Draws, seed_of
from stillhouse.io.pipelines.tiny_text import clip_tokenizer
from stillhouse.metrics.captions import VOCABULARY, parts
from stillhouse.metrics.reader import HEADS
from stillhouse.worlds.shapes.world import Shapes

LENGTH, WIDTH = 12, 64  # tokens of a prompt, and the size of one
STEPS, BATCH, RATE = 400, 128, 2e-3


def new_text() -> tuple[Any, Any]:
    """The tokenizer, one token a word, and the untrained text encoder.

    Words and places are embedded equally large, and much larger than CLIP does: the layers then add to them
    without drowning them.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    # a merge of one word must not break up another: the longest come first
    tokenizer = clip_tokenizer(sorted(VOCABULARY, key=len, reverse=True), LENGTH)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config).eval()
    for name, weight in encoder.named_parameters():
        if "embedding" in name:
            nn.init.normal_(weight, std=0.5)
        elif weight.dim() == 2:
            nn.init.normal_(weight, std=0.7 / math.sqrt(weight.shape[1]))
    return tokenizer, encoder


def token_ids(tokenizer: Any, captions: list[str]) -> Tensor:
    """The tokens of captions as the pipeline makes them, (n, 12)."""
    made: Tensor = tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return made


class Naming(nn.Module):
    """Linear heads on the mean of a caption's states: layout, and shape and colour of both objects."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({part: nn.Linear(WIDTH, n) for part, n in HEADS.items()})

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """Logits of each part, from states (B, 12, 64)."""
        return {part: head(states.mean(1)) for part, head in self.heads.items()}


def train_text(tokenizer: Any, encoder: Any, world: Shapes, steps: int = STEPS) -> float:
    """Train the encoder to name the parts of training captions, without a picture, and throw the heads away.

    A mean over tokens forgets their places, so each token has to learn which object it belongs to: what a
    denoiser learns last, and slowly, from pictures.

    Returns:
        The share of the held-out captions of which every part is named right.
    """
    ids, known = token_ids(tokenizer, list(world.captions)), world.caption_ids("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("shapes text"))
        naming = Naming()
    learning = [*encoder.parameters(), *naming.parameters()]
    optimiser = torch.optim.AdamW(learning, RATE, betas=(0.9, 0.99), weight_decay=0, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in range(steps):
        place = Draws(BATCH, "shapes text", step).uniform(0, 1, dtype=torch.float64)
        chosen = known[(place * len(known)).long()]
        asked = vars(parts(chosen))
        pred = naming(encoder(ids[chosen]).last_hidden_state)
        loss = torch.stack(
            [F.cross_entropy(logits, asked[part], ignore_index=-1) for part, logits in pred.items()]
        ).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    held = world.caption_ids("test")
    asked = vars(parts(held))
    with torch.no_grad():
        pred = naming(encoder(ids[held]).last_hidden_state)
    right = [(logits.argmax(1) == asked[part]) | (asked[part] < 0) for part, logits in pred.items()]
    return float(torch.stack(right).all(0).double().mean())
