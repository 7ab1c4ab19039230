"""A small transformer that predicts the next word."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import Shape, models, outputs
from fedml_api.model.recurrent import LanguageModel
from fedml_core.settings import settings


@models.register("transformer_words")
@settings
class WordTransformer(LanguageModel):
    """Next-word transformer for Stack Overflow: 1,962,912 parameters for 10,004 words.

    embedding 96 plus positions -> three layers of 8 heads, 1536 within, each position seeing those before it -> the embedding,
    transposed. Takes token numbers `[b, t]`, returns logits `[b, t, words]`. Vaswani et al., NeurIPS 2017, sec. 3, with the sizes
    of Granqvist et al., NeurIPS 2024 (pfl-research), after Wang et al., 2021 (A Field Guide to Federated Optimization).
    """

    embedding: Annotated[int, Meta(ge=2)] = 96
    heads: Annotated[int, Meta(ge=1)] = 8
    within: Annotated[int, Meta(ge=1)] = 1536
    layers: Annotated[int, Meta(ge=1)] = 3
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1

    def problems(self) -> Iterator[str]:
        if self.embedding % self.heads or self.embedding % 2:
            yield f"embedding = {self.embedding}: must be even, and a multiple of heads = {self.heads}"

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        return _Transformer(outputs(self, shape, classes), self)


class _Transformer(nn.Module):
    def __init__(self, words: int, spec: WordTransformer) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, spec.embedding)
        # Embedded words, times the root of the width, and logits both begin with a variance near one.
        nn.init.normal_(self.embed.weight, std=spec.embedding**-0.5)
        self.dropout = nn.Dropout(spec.dropout)
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.layers))

    def forward(self, x: Tensor) -> Tensor:
        time, width = x.shape[1], self.embed.embedding_dim
        states = self.dropout(self.embed(x) * math.sqrt(width) + positions(time, width, x.device))
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        for layer in self.layers:
            states = layer(states, later)
        return states @ self.embed.weight.T


class _Layer(nn.Module):
    """Attention to what is not later, then a dense layer within; each added to what was there, and normalised.

    torch has such a layer, but its attention cannot be stacked: for the clients of a block it would run one after the other.
    """

    def __init__(self, spec: WordTransformer) -> None:
        super().__init__()
        width, self.heads = spec.embedding, spec.heads
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(spec.dropout)
        self.within = nn.Sequential(nn.Linear(width, spec.within), nn.ReLU(), self.dropout, nn.Linear(spec.within, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        for layer in (self.project, self.join):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        batch, time, width = x.shape
        query, key, value = self.project(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        weights = self.dropout(scores.masked_fill(later, -math.inf).softmax(dim=3))
        x = self.norm1(x + self.dropout(self.join((weights @ value).transpose(1, 2).flatten(2))))
        found: Tensor = self.norm2(x + self.dropout(self.within(x)))
        return found


def positions(time: int, width: int, device: torch.device) -> Tensor:
    """What tells positions apart, `[time, width]`: sin and cos in turn of t / 10000^(2i / width). Vaswani et al., sec. 3.5."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angles = torch.arange(time, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
