import itertools

import torch

from fedml_core.rng import key, rng, seed_torch


def test_a_stream_depends_on_its_words_alone():
    first = rng(1, "batches", 3, "c7").random(5)
    rng(1, "sample", 3).random(1000)
    assert (rng(1, "batches", 3, "c7").random(5) == first).all()


def test_every_word_matters():
    words = itertools.product([0, 1], ["sample", "batches"], [0, 1, 11], ["", "1", "11"])
    keys = [key(*w) for w in words] + [key(0, "ab", "c"), key(0, "a", "bc"), key(0, "1"), key(0, 1), key(0), key(-1)]
    assert len(set(keys)) == len(keys)


def test_known_key():
    # BLAKE2b-128 of "i1:7" "s6:sample" "i1:3", computed with `printf 'i1:7s6:samplei1:3' | b2sum -l 128`, read little-endian.
    # It pins the streams: if it changes, no old run can be reproduced.
    assert key(7, "sample", 3).to_bytes(16, "little").hex() == "47b401a03aeac059aff9269d7983f4a6"


def test_seeding_torch_gives_the_same_dropout_whatever_came_before():
    def mask():
        seed_torch(5, "train", 2, "c1")
        return torch.nn.functional.dropout(torch.ones(50), 0.5)

    first = mask()
    torch.rand(17)
    assert torch.equal(mask(), first)
    seed_torch(5, "train", 3, "c1")
    assert not torch.equal(torch.nn.functional.dropout(torch.ones(50), 0.5), first)
