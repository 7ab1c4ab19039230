"""Classifiers of texts: sequences of token numbers, of which 0 stands for padding at the end."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_api.model.recurrent import one_bias
from fedml_core.errors import ConfigError
from fedml_core.federation import ClientData
from fedml_core.settings import settings


@settings
class OfTexts(ModelSpec):
    """From token numbers `[b, t]` below `words` to logits `[b, classes]`. How much padding there is makes no difference."""

    takes: ClassVar[str] = "sequences [time] of token numbers"
    tokens: ClassVar[bool] = True
    words: Annotated[int, Meta(ge=2)] = 10_000

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 1

    def fitted(self, data: ClientData) -> ModelSpec:
        x = data.global_test.columns["x"]
        if not x.is_floating_point() and x.numel() and (most := int(x.max())) >= self.words:
            raise ConfigError(f"model.words = {self.words}: the data have tokens up to {most}; ask for at least {most + 1}")
        return self

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        return self.network(outputs(self, shape, classes))

    @abstractmethod
    def network(self, logits: int) -> nn.Module:
        """The network for so many classes."""


@models.register("text_bag")
@settings
class BagOfWords(OfTexts):
    """The mean of a text's words as vectors -> dense: 1,000,404 parameters for 10,000 words and 4 classes.

    Joulin et al., EACL 2017 (fastText), without n-grams. The order of words makes no difference.
    """

    embedding: Annotated[int, Meta(ge=1)] = 100

    def network(self, logits: int) -> nn.Module:
        return nn.Sequential(_MeanOfWords(self.words, self.embedding), nn.Linear(self.embedding, logits))


@models.register("text_bilstm")
@settings
class BiLSTM(OfTexts):
    """embedding 100 -> LSTM 128 forwards and another backwards, their last states -> dense: 1,235,524 parameters for 4 classes.

    Graves and Schmidhuber, 2005, as FedNLP measures text classification with (Lin et al., NAACL 2022); 10,000 words.
    """

    embedding: Annotated[int, Meta(ge=1)] = 100
    hidden: Annotated[int, Meta(ge=1)] = 128

    def network(self, logits: int) -> nn.Module:
        return _BiLSTM(self.words, self.embedding, self.hidden, logits)


class _MeanOfWords(nn.Module):
    def __init__(self, words: int, embedding: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, embedding)

    def forward(self, x: Tensor) -> Tensor:
        real = (x != 0).unsqueeze(2)
        return (self.embed(x) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


class _BiLSTM(nn.Module):
    def __init__(self, words: int, embedding: int, hidden: int, logits: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, embedding)
        self.forwards = one_bias(nn.LSTM(embedding, hidden, batch_first=True))
        self.backwards = one_bias(nn.LSTM(embedding, hidden, batch_first=True))
        self.head = nn.Linear(2 * hidden, logits)

    def forward(self, x: Tensor) -> Tensor:
        # Both directions end at the last real token, so that neither reads padding before it.
        last = ((x != 0).sum(dim=1, keepdim=True) - 1).clamp(min=0)
        reversed = x.gather(1, (last - torch.arange(x.shape[1], device=x.device)).clamp(min=0))
        ends = [_at(lstm(self.embed(tokens))[0], last) for lstm, tokens in ((self.forwards, x), (self.backwards, reversed))]
        logits: Tensor = self.head(torch.cat(ends, dim=1))
        return logits


def _at(states: Tensor, position: Tensor) -> Tensor:
    """The states `[b, t, h]` of each example at its position `[b, 1]`: `[b, h]`."""
    return states.gather(1, position.unsqueeze(2).expand(-1, -1, states.shape[2])).squeeze(1)
