"""Masks that cancel in a sum: whoever adds up what several parties send learns the sum, and nothing else.

    sent_p = round(2^24 v_p) + sum_{q after p} m_pq - sum_{q before p} m_qp        in 64-bit integers, which wrap around

m_pq is a stream of numbers that parties p and q alone know, uniform over all 64-bit integers, so what is sent is uniform as well,
whatever v_p is. The sum over all parties is that of the values, off by at most 2^-25 for each of them: masks in integers cancel
exactly, in floating point they would leave noise behind. Bonawitz et al., CCS 2017, without the recovery of parties that are
lost: a sum in which one is missing says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedml_core.errors import CommunicationError, ConfigError

FRACTION = 24


class Masks:
    """One party's masks in one dialogue. Keys are drawn anew for each, from the system's source, and agreed by X25519.

    Args:
        me: this party; `purpose`: text on which all agree, different for every use.

    Attributes:
        public: what the others need to know, uint8 `[32]`.
    """

    def __init__(self, me: str, purpose: str) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        except ImportError:
            raise ConfigError('masks need the package cryptography; run: pip install "fedml[security]"') from None
        self.me, self.purpose = me, purpose
        self._private = X25519PrivateKey.generate()
        self.public = torch.frombuffer(bytearray(self._private.public_key().public_bytes_raw()), dtype=torch.uint8)
        self._streams: dict[str, Any] = {}

    def agree(self, publics: Mapping[str, Tensor]) -> None:
        """Take what the other parties sent.

        Raises:
            CommunicationError: somebody sent something other than a key.
        """
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        for party, public in publics.items():
            about = "\0".join([self.purpose, *sorted([self.me, party])]).encode()
            try:
                secret = self._private.exchange(X25519PublicKey.from_public_bytes(public.cpu().numpy().tobytes()))
            except (ValueError, AttributeError):
                raise CommunicationError(f"{party} has sent something that is no public key") from None
            key = HKDF(SHA256(), 32, salt=None, info=about).derive(secret)
            # The key is used for this one stream, so its beginning (counter and nonce) may be the same for all.
            self._streams[party] = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def hide(self, values: Tensor) -> Tensor:
        """What to send for `values`: int64 of the same shape.

        Raises:
            CommunicationError: a value is not finite, or too large for 64 bits with `FRACTION` of them after the point.
        """
        scaled = values.detach().double() * 2**FRACTION
        if not bool((scaled.abs() < 2**61).all()):
            raise CommunicationError(f"{self.me}: a value is not below {2.0 ** (61 - FRACTION):.3g} and cannot be masked")
        total: Tensor = scaled.round().to(torch.int64)
        for party, stream in self._streams.items():
            drawn = torch.frombuffer(bytearray(stream.update(bytes(8 * values.numel()))), dtype=torch.int64)
            mask = drawn.view(values.shape).to(values.device)
            total = total + mask if self.me < party else total - mask
        return total


def unmasked(sent: Sequence[Tensor]) -> Tensor:
    """The sum of the values, float32, from what all parties sent."""
    total: Tensor = torch.stack(list(sent)).sum(0)
    return total.double().div(2**FRACTION).float()
