"""The recurrent language models that the field measures itself on."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_core.federation import ClientData
from fedml_core.settings import settings
from fedml_core.trainer import Classifier, ModelTrainer, NextToken


@settings
class LanguageModel(ModelSpec):
    """From token numbers `[b, t]` to logits of what comes next, `[b, t, tokens]`.

    Args:
        special: tokens that are no words, for `word_accuracy` (see `NextToken`); None: those of the data set.
    """

    takes: ClassVar[str] = "sequences [time] of token numbers"
    tokens: ClassVar[bool] = True
    special: tuple[int, ...] | None = field(default=None, kw_only=True)

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 1

    def fitted(self, data: ClientData) -> ModelSpec:
        return replace(self, special=getattr(data, "special", ())) if self.special is None else self  # type: ignore[type-var]

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return shape

    def trainer(self) -> ModelTrainer:
        return NextToken(self.special or ())


@models.register("lstm_chars")
@settings
class CharLSTM(LanguageModel):
    """Next-character LSTM of the FedAvg paper: 820,522 parameters for 90 characters.

    embedding 8 -> two layers of LSTM 256 -> dense over the characters. Takes token numbers `[b, t]`. McMahan et al., AISTATS 2017,
    sec. 3; with 90 characters and a logit for each at every position it is that of Reddi et al., ICLR 2021, app. C.

    Args:
        predicts: the character after `every` position, logits `[b, t, characters]`; or the one after the `last`, `[b, characters]`.
    """

    embedding: Annotated[int, Meta(ge=1)] = 8
    hidden: Annotated[int, Meta(ge=1)] = 256
    layers: Annotated[int, Meta(ge=1)] = 2
    predicts: Literal["every", "last"] = "every"

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        characters = outputs(self, shape, classes)
        recurrent = one_bias(nn.LSTM(self.embedding, self.hidden, self.layers, batch_first=True))
        head = nn.Linear(self.hidden, characters)
        return _Recurrent(nn.Embedding(characters, self.embedding), recurrent, head, self.predicts == "last")

    def labels(self, shape: Shape, classes: int | None) -> Shape | None:
        return shape if self.predicts == "every" else ()

    def trainer(self) -> ModelTrainer:
        return super().trainer() if self.predicts == "every" else Classifier()


@models.register("lstm_words")
@settings
class WordLSTM(LanguageModel):
    """Next-word LSTM of Adaptive Federated Optimization: 4,050,748 parameters for 10,004 words.

    embedding 96 -> LSTM 670 -> dense 96 -> dense over the words. Takes token numbers `[b, t]`, returns logits `[b, t, words]`.
    Reddi et al., ICLR 2021, app. C.
    """

    embedding: Annotated[int, Meta(ge=1)] = 96
    hidden: Annotated[int, Meta(ge=1)] = 670

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        words = outputs(self, shape, classes)
        recurrent = one_bias(nn.LSTM(self.embedding, self.hidden, batch_first=True))
        head = nn.Sequential(nn.Linear(self.hidden, self.embedding), nn.Linear(self.embedding, words))
        return _Recurrent(nn.Embedding(words, self.embedding), recurrent, head)


def one_bias(lstm: nn.LSTM) -> nn.LSTM:
    """The layer with one bias instead of torch's two, which do the same: the papers' models have one."""
    for name, param in lstm.named_parameters():
        if name.startswith("bias_hh"):
            nn.init.zeros_(param).requires_grad_(False)
    return lstm


class _Recurrent(nn.Module):
    """Tokens `[b, t]` to logits at every position, or at the last alone."""

    def __init__(self, embed: nn.Embedding, lstm: nn.LSTM, head: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.embed, self.lstm, self.head, self.last = embed, lstm, head, last

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(x))
        logits: Tensor = self.head(states[:, -1] if self.last else states)
        return logits
