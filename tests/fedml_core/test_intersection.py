"""Private set intersection: the same as that of sets, and what the letters show."""

import importlib.util
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedml_core.errors import CommunicationError, ConfigError
from fedml_core.federation import Post, Reply, Talks
from fedml_core.federation.intersection import SECRET, common_ids
from fedml_core.security.blinding import ORDER, PRIME, A, Blinding, to_curve

needs_cryptography = pytest.mark.skipif(not importlib.util.find_spec("cryptography"), reason="needs the package cryptography")
METHODS = ["plain", "hmac", pytest.param("x25519", marks=needs_cryptography)]


class Anyone:
    """A client of which a conversation needs no more than a name."""

    def __init__(self, id):
        self.id = id

    def seed_torch(self, purpose):
        pass


def meet(lists, method, read=lambda sender, recipient, letter: letter):
    """Have parties named "0", "1", ... find what their lists have in common; `read` sees, and may change, every letter."""
    names = [str(i) for i in range(len(lists))]
    talks = Talks(lambda *letter: None)
    deliver = talks.deliver
    talks.deliver = lambda sender, recipient, letter: deliver(sender, recipient, read(sender, recipient, letter))

    def saying(name, own):
        found = yield from common_ids(name, names, own, method)
        return Reply(found, 1.0, {})

    for name, own in zip(names, lists, strict=True):
        talks.begin(Anyone(name), saying(name, [torch.tensor(ids, dtype=torch.int64) for ids in own]))
    talks.run()
    for error in talks.failed.values():
        raise error
    return [[ids.tolist() for ids in talks.replies[name].value] for name in names]


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv(SECRET, "what only the parties know")


ids = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 12), unique=True, max_size=12)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(lists=st.integers(2, 4).flatmap(lambda n: st.lists(st.tuples(ids, ids), min_size=n, max_size=n)))
def test_everybody_finds_the_intersection_of_the_sets(method, lists):
    wanted = [sorted(set.intersection(*(set(own[k]) for own in lists))) for k in range(2)]
    assert meet(lists, method) == [wanted] * len(lists)


@needs_cryptography
@settings(max_examples=10, deadline=None)
@given(id=st.integers(0, 2**62))
def test_blinding_commutes_and_hiding_comes_off(id):
    one, other = Blinding(), Blinding()
    f = one.reveal(other.blind(one.hide(id)))
    assert f == other.reveal(one.blind(other.hide(id))) != other.reveal(one.blind(other.hide(id + 1)))
    assert one.hide(id) != Blinding().hide(id)


@pytest.mark.parametrize("id", [-5, 0, 1, 2**62])
def test_ids_become_points_of_the_curve_not_of_its_twist(id):
    """y^2 = u (u^2 + A u + 1) has a root, found by Tonelli's way for primes that are 5 modulo 8."""
    u = int.from_bytes(to_curve(id), "little")
    square = u * (u * u + A * u + 1) % PRIME
    root = pow(square, (PRIME + 3) // 8, PRIME)
    assert square in (root * root % PRIME, -root * root % PRIME)
    assert u < PRIME
    assert len({to_curve(i) for i in range(200)}) == 200


@needs_cryptography
def test_the_order_is_that_of_the_curve():
    """ORDER times the base point is nothing: s and 8 ORDER - s lead to opposite points, which have the same u."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    scalars = [2**254 + 8 * 12345, 8 * ORDER - 2**254 - 8 * 12345]
    publics = {X25519PrivateKey.from_private_bytes(s.to_bytes(32, "little")).public_key().public_bytes_raw() for s in scalars}
    assert len(publics) == 1
    assert 2**254 < scalars[0] != scalars[1] < 2**255


@needs_cryptography
def test_what_the_letters_show():
    """Of n parties: lists of everyone's length, in which no value comes twice, nor in two runs; no one sees f of another's list."""
    lists = [([1, 2, 3, 4, 5, 6], [70]), ([2, 3, 4, 5, 9], [70, 71]), ([3, 4, 5, 12, 13, 14, 15], [])]
    seen = []

    def read(sender, recipient, letter):
        seen.append((sender, recipient, [[bytes(row) for row in each.numpy()] for each in letter]))
        return letter

    assert meet(lists, "x25519", read) == [[[3, 4, 5], []]] * 3
    ring = [(sender, recipient, letter) for sender, recipient, letter in seen if (int(sender) + 1) % 3 == int(recipient)]
    lengths = Counter(len(letter[0]) for _, _, letter in ring[:9])
    assert lengths == {6: 3, 5: 3, 7: 3}  # each list is sent three times on its way round
    chain = [(sender, recipient, letter) for sender, recipient, letter in seen[9:]]
    assert [(s, r, len(letter[0]), len(letter[1])) for s, r, letter in chain] == [
        ("0", "1", 6, 1),  # f of the first list, of which the second party knows its own
        ("1", "2", 4, 1),  # 2, 3, 4, 5 and 70
        ("2", "0", 3, 0),
        ("2", "1", 3, 0),
    ]
    # Nothing that went round is found again in the chain, or twice on its way: each is under other secrets.
    values = [value for _, _, letter in ring[:9] for value in letter[0]]
    assert len(set(values)) == len(values)
    assert not set(values) & {value for _, _, letter in chain for value in letter[0]}
    assert all(letter[0] == sorted(letter[0]) for _, _, letter in chain)  # in an order that tells nothing
    once, seen = seen, []
    meet(lists, "x25519", read)
    assert not {v for _, _, letter in once for v in letter[0]} & {v for _, _, letter in seen for v in letter[0]}


@needs_cryptography
def test_what_goes_round_is_in_an_order_of_chance(monkeypatch):
    hidden, hide = [], Blinding.hide

    def noted(secret, id):
        hidden.append(id)
        return hide(secret, id)

    monkeypatch.setattr(Blinding, "hide", noted)
    ids = list(range(60))
    meet([(ids, []), (ids, [])], "x25519")
    assert sorted(hidden[:60]) == sorted(hidden[60:]) == ids
    assert len({tuple(hidden[:60]), tuple(hidden[60:]), tuple(ids)}) == 3


def test_with_a_key_the_letters_differ_by_the_secret(monkeypatch):
    seen = []

    def read(sender, recipient, letter):
        seen.append(letter[0].numpy().tobytes())
        return letter

    for secret in ("what only the parties know", "what only the parties knew"):
        monkeypatch.setenv(SECRET, secret)
        meet([([1], []), ([1], [])], "hmac", read)
    import hashlib
    import hmac

    wanted = hmac.new(b"what only the parties know", (1).to_bytes(32, "big"), hashlib.sha256).digest()
    assert seen[0] == seen[1] == wanted != seen[2]


def test_a_missing_secret_is_named(monkeypatch):
    monkeypatch.setenv(SECRET, "short")
    with pytest.raises(ConfigError, match=f"{SECRET} to the same 16 characters or more"):
        meet([([1], []), ([1], [])], "hmac")


def test_a_missing_package_is_named(monkeypatch):
    import builtins

    from fedml_core.security import blinding

    real = builtins.__import__

    def no_cryptography(name, *arguments, **named):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    blinding._x25519.cache_clear()
    monkeypatch.setattr(builtins, "__import__", no_cryptography)
    with pytest.raises(ConfigError, match=r'pip install "fedml\[security\]", or choose intersection=hmac'):
        meet([([1], []), ([1], [])], "x25519")


BAD = {
    "nothing": None,
    "one list": [torch.zeros(1, 32, dtype=torch.uint8)],
    "numbers": [torch.zeros(1, 32)] * 2,
    "short values": [torch.zeros(1, 31, dtype=torch.uint8)] * 2,
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_list_of_values_is_refused(method, bad):
    lists = [([1, 2], [3]), ([1, 2], [3])]
    with pytest.raises(CommunicationError, match="1 has sent something other than 2 lists of blinded ids"):
        meet(lists, method, lambda sender, recipient, letter: BAD[bad] if sender == "1" else letter)


@needs_cryptography
def test_values_that_would_betray_the_secret_are_refused():
    """A point of small order; and a list that comes home shorter."""
    lists = [([1, 2], [3]), ([1, 2], [3])]
    with pytest.raises(CommunicationError, match="no blinded id"):
        meet(lists, "x25519", lambda sender, recipient, letter: [torch.zeros_like(each) for each in letter])
    with pytest.raises(CommunicationError, match="not as long as the one that 0 sent round"):
        meet(lists, "x25519", lambda s, r, letter: [each[:1] for each in letter] if s == "1" else letter)


def test_posts_are_for_the_parties_alone():
    talk = common_ids("0", ["0", "1"], [torch.tensor([1])], "plain")
    post = next(talk)
    assert isinstance(post, Post)
    assert (list(post.to), list(post.wait)) == (["1"], ["1"])
