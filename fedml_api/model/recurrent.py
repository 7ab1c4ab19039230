"""The recurrent language model that the field measures itself on."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta
from torch import Tensor, nn

from fedml_api.model.model_spec import ModelSpec, Shape, models, outputs
from fedml_core.settings import settings
from fedml_core.trainer import ModelTrainer, NextToken


@models.register("lstm_words")
@settings
class WordLSTM(ModelSpec):
    """Next-word LSTM of Adaptive Federated Optimization: 4,050,748 parameters for 10,004 words.

    embedding 96 -> LSTM 670 -> dense 96 -> dense over the words. Takes token numbers `[b, t]`, returns logits `[b, t, words]`.
    Reddi et al., ICLR 2021, app. C.
    """

    takes: ClassVar[str] = "sequences [time] of token numbers"
    embedding: Annotated[int, Meta(ge=1)] = 96
    hidden: Annotated[int, Meta(ge=1)] = 670

    @classmethod
    def fits(cls, shape: Shape) -> bool:
        return len(shape) == 1

    def build(self, shape: Shape, classes: int | None) -> nn.Module:
        return _WordLSTM(outputs(self, shape, classes), self.embedding, self.hidden)

    def trainer(self) -> ModelTrainer:
        return NextToken()


class _WordLSTM(nn.Module):
    def __init__(self, words: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        # torch adds two biases where one does the same; the paper's model has one.
        nn.init.zeros_(self.lstm.bias_hh_l0).requires_grad_(False)
        self.narrow = nn.Linear(hidden, embedding)
        self.words = nn.Linear(embedding, words)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(x))
        logits: Tensor = self.words(self.narrow(states))
        return logits
