"""Blinding of ids: multiplying points of Curve25519 by secrets, in any order to the same end."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from types import ModuleType

from fedml_core.errors import CommunicationError, ConfigError

WIDTH = 32
# Of the curve: the prime of its field, the order of its large subgroup, the coefficient of its equation v^2 = u^3 + A u^2 + u.
PRIME, ORDER, A = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493, 486662


class Blinding:
    """The secrets of one party: `hide` multiplies by r, `blind` by k, `reveal` by k / r.

    X25519 takes scalars that are multiples of 8 between 2^254 and 2^255 only (RFC 7748), so r is drawn until k / r, of which the
    group knows only the remainder modulo its order, has such a form as well: on average twice.
    """

    def __init__(self) -> None:
        k = _scalar()
        while True:
            r = _scalar()
            quotient = 8 * (k * pow(8 * r, -1, ORDER) % ORDER)
            if 2**254 <= quotient < 2**255:
                break
        private = _x25519().X25519PrivateKey.from_private_bytes
        self._r, self._k, self._quotient = (private(scalar.to_bytes(WIDTH, "little")) for scalar in (r, k, quotient))

    def hide(self, id: int) -> bytes:
        return self._times(self._r, to_curve(id))

    def blind(self, value: bytes) -> bytes:
        return self._times(self._k, value)

    def reveal(self, value: bytes) -> bytes:
        return self._times(self._quotient, value)

    def _times(self, scalar: object, value: bytes) -> bytes:
        try:
            found: bytes = scalar.exchange(_x25519().X25519PublicKey.from_public_bytes(value))  # type: ignore[attr-defined]
        except ValueError:  # a point of small order, which no honest party sends
            raise CommunicationError("a party has sent a value that is no blinded id") from None
        return found


def to_curve(id: int) -> bytes:
    """A point of the curve, by its u-coordinate, that belongs to `id`: the first hash which is one.

    Half of all numbers belong to the curve's twist instead. They are left out, as multiplying does not lead from one to the other:
    of a blinded value one could still tell which.
    """
    for attempt in range(256):
        digest = hashlib.sha256(b"fedml intersection %d %d" % (id, attempt)).digest()
        u = int.from_bytes(digest, "little") % 2**255
        if u < PRIME and pow(u * (u * u + A * u + 1), (PRIME - 1) // 2, PRIME) == 1:
            return u.to_bytes(WIDTH, "little")
    raise AssertionError("no attempt hits the curve: that happens once in 2^256 ids")


def _scalar() -> int:
    return 2**254 + 8 * secrets.randbelow(2**251)


@cache
def _x25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import x25519
    except ImportError:
        raise ConfigError(
            "private set intersection by x25519 needs the package cryptography; "
            'run: pip install "fedml[security]", or choose intersection=hmac'
        ) from None
    return x25519
