"""Private set intersection: which people do all parties know, without showing the others.

    values = yield from common_ids(me, parties, [train_ids, test_ids], "x25519")

is part of a dialogue of each of `parties`; all get the same ids. Three methods:

`x25519`   Diffie-Hellman blinding (Meadows, IEEE S&P 1986; Huberman, Franklin and Hogg, EC 1999) on Curve25519, for n parties:

    u(i)     the hash of id i to a point of the curve          k_p, r_p   secrets of party p, drawn from the system's source
    1. p sends its list r_p u(i), shuffled, to the next party of a ring; each other party q multiplies it by k_q and sends it on
    2. at home, p takes r_p off and multiplies by k_p: now it knows, alone, f(i) = (k_1 k_2 ... k_n) u(i) of each of its ids
    3. the first party sends its f's, sorted, to the second, which sends those that it has as well to the third, and so on;
       the last one tells everybody what is left

`hmac`     step 3 alone, with f(i) = HMAC-SHA256(secret, i); each party has the secret in the environment variable
           FEDML_INTERSECTION_SECRET
`plain`    step 3 alone, with f(i) = i: where ids are no secret, and for tests

Who learns what, if all follow the protocol: everybody the common ids, and how many each other party has. With three parties or
more, in step 3 the second learns which of its ids the first has, the third which of its ids both before it have, and so on. With
`x25519` nothing else can be found out about an id that one does not have, if the Diffie-Hellman problem is hard, not even by trying
all possible ids. With `hmac` any party can try out ids on what it is sent in step 3, as it knows the secret: it keeps out those who
carry the letters, not the parties. With `plain` nobody is kept out. The letters are not signed: whoever can alter them can alter
the result, and a party that claims to have ids which it does not have finds out who has them.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Generator, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedml_core.errors import CommunicationError, ConfigError
from fedml_core.federation.dialogue import Letters, Post
from fedml_core.security.blinding import WIDTH, Blinding

Method = Literal["x25519", "hmac", "plain"]
SECRET = "FEDML_INTERSECTION_SECRET"


def common_ids(me: str, parties: Sequence[str], lists: Sequence[Tensor], method: Method) -> Generator[Post, Letters, list[Tensor]]:
    """The ids (int64, sorted) that all parties have in their first list, in their second, and so on.

    Args:
        parties: the same names in the same order at all of them; `me`: one of them.
        lists: ids of this party, int64, none of them twice.

    Raises:
        ConfigError: the method needs a package or a secret that is not here.
    """
    marks: list[list[bytes]]
    if method == "x25519":
        marks = yield from _blinded(me, parties, lists)
    else:
        mark = _keyed() if method == "hmac" else _bytes
        marks = [[mark(id) for id in ids.tolist()] for ids in lists]
    left = yield from _shared(me, parties, [sorted(own) for own in marks])
    found = []
    for ids, own, common in zip(lists, marks, left, strict=True):
        known, wanted = ids.tolist(), set(common)
        found.append(torch.tensor(sorted(known[i] for i, mark in enumerate(own) if mark in wanted), dtype=torch.int64))
    return found


def _shared(me: str, parties: Sequence[str], marks: Sequence[Sequence[bytes]]) -> Generator[Post, Letters, list[list[bytes]]]:
    """Step 3: what is in the lists of all parties."""
    place, last = parties.index(me), parties[-1]
    left = [list(own) for own in marks]
    if place > 0:
        before = parties[place - 1]
        letters = yield Post(wait=[before])
        left = [sorted(set(own) & set(theirs)) for own, theirs in zip(marks, _read(letters, before, len(marks)), strict=True)]
    if me == last:
        result = [_pack(each) for each in left]
        yield Post({party: result for party in parties[:-1]})  # noqa: C420  (letters are copied when sent)
        return left
    letters = yield Post({parties[place + 1]: [_pack(each) for each in left]}, wait=[last])
    return _read(letters, last, len(marks))


def _blinded(me: str, parties: Sequence[str], lists: Sequence[Tensor]) -> Generator[Post, Letters, list[list[bytes]]]:
    """Steps 1 and 2: f of each id of each list."""
    place = parties.index(me)
    before, after = parties[place - 1], parties[(place + 1) % len(parties)]
    secret = Blinding()
    orders = [_shuffled(len(ids)) for ids in lists]
    travelling = [[secret.hide(ids[i]) for i in order] for ids, order in zip([own.tolist() for own in lists], orders, strict=True)]
    for _ in parties[1:]:
        letters = yield Post({after: [_pack(each) for each in travelling]}, wait=[before])
        travelling = [[secret.blind(value) for value in each] for each in _read(letters, before, len(lists))]
    letters = yield Post({after: [_pack(each) for each in travelling]}, wait=[before])
    home = _read(letters, before, len(lists))
    if [len(each) for each in home] != [len(order) for order in orders]:
        raise CommunicationError(f"{before} sends back a list that is not as long as the one that {me} sent round")
    marks = [[b""] * len(order) for order in orders]
    for own, order, values in zip(marks, orders, home, strict=True):
        for i, value in zip(order, values, strict=True):
            own[i] = secret.reveal(value)
    return marks


def _shuffled(count: int) -> list[int]:
    order = list(range(count))
    secrets.SystemRandom().shuffle(order)
    return order


def _keyed() -> Callable[[int], bytes]:
    secret = os.environ.get(SECRET, "")
    if len(secret) < 16:
        raise ConfigError(
            f"intersection = 'hmac': the parties' common secret is not here; set the environment variable {SECRET} to the same "
            "16 characters or more at each of them, or choose intersection=x25519"
        )
    return lambda id: hmac.digest(secret.encode(), _bytes(id), "sha256")


def _bytes(id: int) -> bytes:
    return id.to_bytes(WIDTH, "big", signed=True)


def _pack(values: Sequence[bytes]) -> Tensor:
    return (
        torch.frombuffer(bytearray(b"".join(values)), dtype=torch.uint8).view(-1, WIDTH) if values else torch.empty(0, WIDTH).byte()
    )


def _read(letters: Letters, sender: str, lists: int) -> list[list[bytes]]:
    """The lists that a party has sent.

    Raises:
        CommunicationError: it has sent something else.
    """
    letter = letters[sender]
    tensors = letter if isinstance(letter, list) else []
    good = [each for each in tensors if isinstance(each, Tensor) and each.dtype == torch.uint8 and each.shape[1:] == (WIDTH,)]
    if len(good) != len(tensors) or len(good) != lists:
        raise CommunicationError(f"{sender} has sent something other than {lists} lists of blinded ids")
    raws = [each.cpu().numpy().tobytes() for each in good]
    return [[raw[i : i + WIDTH] for i in range(0, len(raw), WIDTH)] for raw in raws]
