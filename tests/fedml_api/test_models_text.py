"""Networks for sequences of tokens: parameter counts, which way they read, and what each layer computes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedml_api.model import BagOfWords, BiLSTM, CharLSTM, WordLSTM, WordTransformer
from fedml_core.errors import ConfigError
from fedml_core.trainer import Classifier, NextToken

LANGUAGE = [CharLSTM(3, 5), WordLSTM(4, 6), WordTransformer(8, 2, 12, 2)]
TEXTS = [BagOfWords(30, 6), BiLSTM(30, 6, 5)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("spec", "classes", "parameters"),
    [
        # Reddi et al., ICLR 2021, app. C: 90 x 8, 4 x 256 x (8 + 256 + 1), 4 x 256 x (256 + 256 + 1), 256 x 90 + 90
        (CharLSTM(), 90, 820_522),
        # the same: 10004 x 96, 4 x 670 x (96 + 670 + 1), 670 x 96 + 96, 96 x 10004 + 10004
        (WordLSTM(), 10_004, 4_050_748),
        # 10004 x 96 and three layers of 4 x (96 x 96 + 96), 2 x 96 x 1536 + 1536 + 96, 4 x 96
        (WordTransformer(), 10_004, 10_004 * 96 + 3 * (4 * (96 * 96 + 96) + 2 * 96 * 1536 + 1536 + 96 + 4 * 96)),
        (WordTransformer(), 10_004, 1_962_912),
        (BagOfWords(), 4, 10_000 * 100 + 100 * 4 + 4),
        (BiLSTM(), 4, 10_000 * 100 + 2 * 4 * 128 * (100 + 128 + 1) + 2 * 128 * 4 + 4),
        (BiLSTM(), 4, 1_235_524),
    ],
)
def test_parameter_counts(spec, classes, parameters):
    with torch.device("meta"):
        network = spec.build((20,), classes)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == parameters


@pytest.mark.parametrize("spec", [CharLSTM(), WordLSTM(), BiLSTM()], ids=str)
def test_what_is_not_trained_is_the_second_bias_of_torch(spec):
    fixed = {name: p for name, p in spec.build((20,), 40).named_parameters() if not p.requires_grad}
    assert fixed
    assert all("bias_hh" in name and not p.any() for name, p in fixed.items())


@pytest.mark.parametrize("spec", [*LANGUAGE, *TEXTS], ids=str)
def test_each_sequence_is_read_for_itself(spec):
    """A recurrence over the batch, which is what a wrong order of dimensions makes of one over time, would mix them."""
    network, x, order = spec.build((7,), 11).eval(), torch.randint(0, 11, (4, 7)), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(x)[order], network(x[order]))
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


@pytest.mark.parametrize("spec", LANGUAGE, ids=str)
def test_language_models_read_forwards_and_see_nothing_of_the_future(spec):
    network, x = spec.build((7,), 11).eval(), torch.randint(1, 11, (1, 7))
    for changed in range(7):
        other = x.clone()
        other[0, changed] = (x[0, changed] % 10) + 1
        difference = (network(x) - network(other)).abs().amax(dim=(0, 2))
        assert difference[:changed].eq(0).all()
        assert difference[changed:].gt(1e-7).all()


@pytest.mark.parametrize("spec", LANGUAGE, ids=str)
def test_the_order_of_words_matters(spec):
    network = spec.build((4,), 11).eval()
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])
    assert (network(one)[0, -1] - network(other)[0, -1]).abs().max() > 1e-5


def lstm(x, w_ih, w_hh, bias, _):
    """Hochreiter and Schmidhuber, 1997, in torch's order of gates: input, forget, cell, output."""
    h = c = x.new_zeros(x.shape[0], w_hh.shape[1])
    states = []
    for t in range(x.shape[1]):
        i, f, g, o = (x[:, t] @ w_ih.T + h @ w_hh.T + bias).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states, dim=1)


def test_recurrent_networks_compute_what_their_papers_describe():
    x = torch.randint(0, 11, (3, 7))
    for spec, layers in ((CharLSTM(3, 5), 2), (WordLSTM(4, 6), 1)):
        network = spec.build((7,), 11)
        embed, *p = network.parameters()
        states = embed[x]
        for layer in range(layers):
            states = lstm(states, *p[4 * layer : 4 * layer + 4])
        for weight, bias in zip(p[4 * layers :: 2], p[4 * layers + 1 :: 2], strict=True):
            states = states @ weight.T + bias
        torch.testing.assert_close(network(x), states)


def test_the_last_character_alone():
    """LEAF's Shakespeare has one label per sequence."""
    network, x = CharLSTM(3, 5).build((7,), 11), torch.randint(0, 11, (3, 7))
    last = CharLSTM(3, 5, predicts="last").build((7,), 11)
    last.load_state_dict(network.state_dict())
    torch.testing.assert_close(last(x), network(x)[:, -1])
    assert type(CharLSTM().trainer()) is NextToken
    assert type(CharLSTM(predicts="last").trainer()) is Classifier


def attention(x, w, b, w_out, b_out, heads):
    batch, time, width = x.shape
    q, k, v = (part.view(batch, time, heads, -1).transpose(1, 2) for part in (x @ w.T + b).chunk(3, dim=2))
    scores = q @ k.transpose(2, 3) / math.sqrt(width // heads)
    scores = scores.masked_fill(torch.ones(time, time, dtype=torch.bool).triu(1), -math.inf)
    return (scores.softmax(dim=3) @ v).transpose(1, 2).reshape(batch, time, width) @ w_out.T + b_out


def test_the_transformer_computes_what_its_paper_describes():
    """Vaswani et al., 2017, sec. 3: normalisation after each sum, positions by sin and cos, embedding and last layer shared."""
    network, x = WordTransformer(8, 2, 12, 2).build((7,), 11).eval(), torch.randint(0, 11, (3, 7))
    for layer in network.layers:
        nn.init.uniform_(layer.norm1.weight, 0.5, 1.5)
        nn.init.normal_(layer.norm2.bias)
    embed, *p = network.parameters()
    angles = [[t / 10000 ** (2 * (i // 2) / 8) for i in range(8)] for t in range(7)]
    position = torch.tensor([[(math.cos if i % 2 else math.sin)(angle) for i, angle in enumerate(row)] for row in angles])
    states = embed[x] * math.sqrt(8) + position
    for w, b, w_out, b_out, w1, b1, w2, b2, s1, t1, s2, t2 in (p[:12], p[12:]):
        states = F.layer_norm(states + attention(states, w, b, w_out, b_out, 2), (8,), s1, t1)
        states = F.layer_norm(states + ((states @ w1.T + b1).relu() @ w2.T + b2), (8,), s2, t2)
    torch.testing.assert_close(network(x), states @ embed.T)


def test_the_transformers_layers_are_torchs():
    ours = WordTransformer(8, 2, 12, 1).build((7,), 11).layers[0].eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x, later = torch.randn(3, 7, 8), torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, later), theirs(x, src_mask=later), rtol=1e-5, atol=1e-5)


def test_only_training_drops_out():
    network, x = WordTransformer(8, 2, 12, 2, dropout=0.5).build((7,), 11), torch.randint(0, 11, (3, 7))
    assert (network(x) - network(x)).abs().max() > 1e-3
    network.eval()
    assert torch.equal(network(x), network(x))
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.5}


def test_the_transformers_logits_begin_near_one():
    logits = WordTransformer().build((20,), 1000).eval()(torch.randint(0, 1000, (8, 20)))
    assert 0.5 < logits.std() < 2


def test_sizes_that_do_not_go_together_are_refused():
    for embedding, heads in ((96, 7), (9, 3)):
        with pytest.raises(ConfigError, match=f"embedding = {embedding}: must be even, and a multiple of heads = {heads}"):
            WordTransformer(embedding, heads)


@pytest.mark.parametrize("spec", TEXTS, ids=str)
def test_padding_makes_no_difference_to_a_text(spec):
    network, x = spec.build((5,), 4), torch.tensor([[3, 9, 2, 7, 1]])
    torch.testing.assert_close(network(x), network(F.pad(x, (0, 6))))
    assert network(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all()
    assert (network(x) - network(F.pad(x[:, :4], (0, 1)))).abs().max() > 1e-5


def test_a_bag_of_words_has_no_order():
    network, x = BagOfWords(30, 6).build((5,), 4), torch.tensor([[3, 9, 2, 7, 0]])
    torch.testing.assert_close(network(x), network(x[:, [3, 1, 0, 2, 4]]))
    embed, weight, bias = network.parameters()
    torch.testing.assert_close(network(x), embed[[3, 9, 2, 7]].mean(dim=0, keepdim=True) @ weight.T + bias)


def test_the_bilstm_is_torchs_on_packed_sequences():
    network, lengths = BiLSTM(30, 6, 5).build((7,), 4), torch.tensor([7, 3, 1])
    x = torch.randint(1, 30, (3, 7)) * (torch.arange(7) < lengths[:, None])
    theirs = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    ours = [*network.forwards.parameters(), *network.backwards.parameters()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours, strict=True)))
    packed = nn.utils.rnn.pack_padded_sequence(network.embed(x), lengths, batch_first=True)
    ends = theirs(packed)[1][0]
    torch.testing.assert_close(network(x), network.head(torch.cat([ends[0], ends[1]], dim=1)))
