"""Sums of a party's columns, weighted with numbers that it may not see: X'g for g of the label holder, by Paillier's cryptosystem.

    label holder                                 party with the columns X
    [g_i] for each row i                   ->
                                           <-    [sum_i x_ij g_i + rho], for all j, with a random rho
    opens it                               ->
                                                 takes rho off

[m] = (1 + n)^m r^n mod n^2 is m under the label holder's key n (Paillier, EUROCRYPT 1999); products of such are sums of what is
in them, and powers are multiples. The party learns X'g and nothing of g beside that, if the decisional composite residuosity
assumption holds; the label holder learns nothing: rho is uniform modulo n, and it is added under a random r of the party's own.
Both are assumed to do what the protocol says.

Numbers are rounded, g to 2^-30 and x to 2^-20, and lie in `SLOT` bits each, many in one plaintext. Primes are those of an RSA key
of the package cryptography, random numbers come from the system's source. (Of the libraries looked at, one draws them from Python's
`random`; those on lattices would show the label holder, in the noise, which columns its numbers were multiplied with.)
"""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from fedml_core.errors import CommunicationError, ConfigError

BITS = 2048
SLOT = 96
OF_WEIGHTS, OF_COLUMNS = 30, 20
# What fits into a slot: so many rows of so large numbers.
MOST_ROWS, LARGEST_WEIGHT, LARGEST_COLUMN = 2**19, 2**10, 2**15


class Weights:
    """The label holder's side.

    Attributes:
        public: its key, which the other party needs, uint8 `[BITS / 8]`.
    """

    def __init__(self) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric import rsa
        except ImportError:
            raise ConfigError('encryption needs the package cryptography; run: pip install "fedml[security]"') from None
        numbers = rsa.generate_private_key(65537, BITS).private_numbers()
        self._p, self._q = numbers.p, numbers.q
        self._n = self._p * self._q
        self._order = (self._p - 1) * (self._q - 1)
        self._inverse = pow(self._order, -1, self._n)
        self._q_inverse = pow(self._q**2, -1, self._p**2)
        self.public = _bytes([self._n], BITS // 8)[0]

    def sealed(self, weights: Tensor) -> Tensor:
        """Real numbers `[b, k]` as ciphertexts, uint8 `[b, k, BITS / 4]`."""
        whole = _whole(weights, OF_WEIGHTS, LARGEST_WEIGHT, "a gradient")
        return _bytes([self._encrypt(m) for m in whole.flatten().tolist()], BITS // 4).view(*whole.shape, -1)

    def opened(self, sums: Tensor) -> Tensor:
        """What is in ciphertexts `[s, BITS / 4]`, uint8 `[s, BITS / 8]`."""
        return _bytes([self._decrypt(c) for c in _numbers(sums, BITS // 4)], BITS // 8)

    def _encrypt(self, m: int) -> int:
        # r^n modulo p^2 is the p-th power of some number, any of them equally often; so it is drawn as such.
        squares = [prime**2 for prime in (self._p, self._q)]
        a, b = (pow(1 + secrets.randbelow(prime - 1), prime, prime**2) for prime in (self._p, self._q))
        noise = b + squares[1] * ((a - b) * self._q_inverse % squares[0])
        return (1 + m * self._n) * noise % self._n**2

    def _decrypt(self, c: int) -> int:
        return (pow(c, self._order, self._n**2) - 1) // self._n * self._inverse % self._n


class Columns:
    """The side of the party with the columns; `public` is the label holder's key.

    Raises:
        CommunicationError: it is none.
    """

    def __init__(self, public: Tensor) -> None:
        if not isinstance(public, Tensor) or public.shape != (BITS // 8,):
            raise CommunicationError(f"the label holder has sent something that is no key of {BITS} bits")
        self._n = _numbers(public[None], BITS // 8)[0]
        if self._n.bit_length() < BITS - 1 or self._n % 2 == 0:
            raise CommunicationError(f"the label holder has sent something that is no key of {BITS} bits")
        self._hidden: list[int] = []
        self._shape = (0, 0)

    def summed(self, sealed: Tensor, columns: Tensor) -> Tensor:
        """Masked sums `[s, BITS / 4]` over the rows of `columns` `[b, w]`, weighted by what is in `sealed` `[b, k, BITS / 4]`."""
        rows = _whole(columns, OF_COLUMNS, LARGEST_COLUMN, "a column").T.tolist()
        if not isinstance(sealed, Tensor) or sealed.dim() != 3 or len(sealed) != len(columns) or len(columns) > MOST_ROWS:
            raise CommunicationError(f"the label holder has sent something other than {len(columns)} encrypted gradients")
        kinds = sealed.shape[1]
        ciphers = [_numbers(sealed[:, kind], BITS // 4) for kind in range(kinds)]
        inverses = [[pow(c, -1, self._n**2) for c in own] for own in ciphers]
        self._shape = (kinds, columns.shape[1])
        parts = [self._product(own, inverse, row) for own, inverse in zip(ciphers, inverses, strict=True) for row in rows]
        slots, self._hidden, found = (BITS - 2) // SLOT, [], []
        for first in range(0, len(parts), slots):
            total = 1
            for part in reversed(parts[first : first + slots]):
                total = pow(total, 1 << SLOT, self._n**2) * part % self._n**2
            self._hidden.append(secrets.randbelow(self._n))
            noise = pow(1 + secrets.randbelow(self._n - 1), self._n, self._n**2)
            found.append(total * (1 + self._hidden[-1] * self._n) * noise % self._n**2)
        return _bytes(found, BITS // 4)

    def _product(self, ciphers: list[int], inverses: list[int], powers: list[int]) -> int:
        total = 1
        for c, inverse, power in zip(ciphers, inverses, powers, strict=True):
            if power:
                total = total * pow(c if power > 0 else inverse, abs(power), self._n**2) % self._n**2
        return total

    def revealed(self, opened: Tensor) -> Tensor:
        """The weighted sums, float32 `[k, w]`, from what the label holder has found."""
        numbers = _numbers(opened, BITS // 8)
        if len(numbers) != len(self._hidden):
            raise CommunicationError(f"the label holder has sent something other than {len(self._hidden)} opened sums")
        kinds, width = self._shape
        sums: list[float] = []
        for number, hidden in zip(numbers, self._hidden, strict=True):
            left = (number - hidden) % self._n
            left -= self._n if left > self._n // 2 else 0
            for _ in range(min((BITS - 2) // SLOT, kinds * width - len(sums))):
                digit = left % (1 << SLOT)
                digit -= (1 << SLOT) if digit >> (SLOT - 1) else 0
                sums.append(digit / 2 ** (OF_WEIGHTS + OF_COLUMNS))
                left = (left - digit) >> SLOT
        return torch.tensor(sums, dtype=torch.float32).view(kinds, width)


def _whole(values: Tensor, bits: int, largest: int, what: str) -> Tensor:
    scaled = values.detach().cpu().double() * 2**bits
    if not bool((scaled.abs() < largest * 2**bits).all()):
        raise CommunicationError(f"{what} is not below {largest} and cannot be encrypted: scale the columns, or lower the rate")
    whole: Tensor = scaled.round().to(torch.int64)
    return whole


def _bytes(numbers: list[int], width: int) -> Tensor:
    raw = bytearray(b"".join(number.to_bytes(width, "little") for number in numbers))
    return torch.frombuffer(raw, dtype=torch.uint8).view(len(numbers), width)


def _numbers(rows: Tensor, width: int) -> list[int]:
    """The numbers in uint8 `[s, width]`.

    Raises:
        CommunicationError: it is something else.
    """
    if not isinstance(rows, Tensor) or rows.dtype != torch.uint8 or rows.dim() != 2 or rows.shape[1] != width:
        raise CommunicationError(f"a party has sent something other than numbers of {8 * width} bits")
    raw = rows.cpu().numpy().tobytes()
    return [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]
