"""Compressor: a tree of tensors in fewer bits, and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from fedml_core import tree
from fedml_core.rng import rng
from fedml_core.settings import Registry, settings
from fedml_core.tree import Tree


class Compressor(ABC):
    """Turns the value of a reply into a smaller tree, and back.

    What is lost may be random (`draw`), so that a quantiser can be unbiased: E[decompress(compress(x))] = x.

    Attributes:
        feedback: whether the client keeps what got lost, and adds it to what it sends next.
    """

    feedback: bool = False

    @abstractmethod
    def compress(self, value: Tree, draw: np.random.Generator, round: int) -> Tree:
        """`value` as it is sent; `draw` is this client's own stream, `round` is the same for all."""

    @abstractmethod
    def decompress(self, sent: Tree) -> Tree:
        """The value that `compress` made of it, but for what is lost.

        Raises:
            ValueError: `sent` is not what `compress` makes.
        """

    def outline(self, sent: Tree) -> Tree:
        """The value with meta tensors, which have shapes and no memory, in place of its tensors.

        Raises:
            ValueError: as `decompress`.
        """
        return tree.to(sent, "meta")


compressors: Registry[Compressor] = Registry("compressor", Compressor)


@compressors.register("none")
@settings
class NoCompression(Compressor):
    """Everything as it is."""

    def compress(self, value: Tree, draw: np.random.Generator, round: int) -> Tree:
        return value

    def decompress(self, sent: Tree) -> Tree:
        return sent


@tree.node
class Packed:
    """A tree whose large tensors are packed.

    Attributes:
        outline: the tree; in place of a packed tensor stands one of its type and shape, with a further dimension of extent 0, which
            takes no room.
        codes: uint8, what is packed of all tensors, one after the other; `numbers`: likewise, float32.
        key: 0, or the 63 bits by which random rotations are drawn anew.
    """

    outline: Tree
    codes: Tensor
    numbers: Tensor
    key: int


class Packing(Compressor):
    """Packs every tensor of floating-point numbers that has not exactly one element, by itself, as a vector."""

    def key(self, draw: np.random.Generator, round: int) -> int:
        """What `encode` and `decode` draw from together, below 2^63."""
        return 0

    @abstractmethod
    def room(self, count: int) -> tuple[int, int]:
        """How many codes and numbers a vector of `count` elements takes."""

    @abstractmethod
    def encode(self, vector: Tensor, draw: np.random.Generator, common: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Codes (uint8) and numbers of a vector. `common` is drawn from in the same way when it is decoded."""

    @abstractmethod
    def decode(self, codes: Tensor, numbers: Tensor, count: int, common: np.random.Generator) -> Tensor:
        """The vector of `count` elements.

        Raises:
            ValueError: these are not codes that `encode` makes.
        """

    def compress(self, value: Tree, draw: np.random.Generator, round: int) -> Packed:
        key = self.key(draw, round)
        codes, numbers = [torch.empty(0, dtype=torch.uint8)], [torch.empty(0)]

        def pack(part: Tensor) -> Tensor:
            if not part.is_floating_point() or part.numel() == 1:
                return part
            # In float32 throughout, so that both sides come to the same.
            bits, floats = self.encode(part.flatten().float(), draw, rng(key, "rotation", len(codes)))
            codes.append(bits)
            numbers.append(floats)
            return part.new_empty((*part.shape, 0))

        outline = tree.map_tensors(pack, value)
        return Packed(outline, torch.cat([part.cpu() for part in codes]), torch.cat([part.cpu() for part in numbers]), key)

    def decompress(self, sent: Tree) -> Tree:
        places = self._places(sent)
        device = next((part.device for part in places), sent.codes.device)
        codes, numbers, number = sent.codes.to(device), sent.numbers.to(device), 0
        used = [0, 0]

        def unpack(part: Tensor) -> Tensor:
            nonlocal number
            if not _stands_for(part):
                return part
            number += 1
            count = math.prod(part.shape[:-1])
            (a, b), room = used, self.room(count)
            used[:] = a + room[0], b + room[1]
            found = self.decode(codes[a : used[0]], numbers[b : used[1]], count, rng(sent.key, "rotation", number))
            return found.to(part.dtype).view(part.shape[:-1])

        return tree.map_tensors(unpack, sent.outline)

    def outline(self, sent: Tree) -> Tree:
        self._places(sent)
        return tree.map_tensors(
            lambda part: part.new_empty(part.shape[:-1] if _stands_for(part) else part.shape, device="meta"), sent.outline
        )

    def _places(self, sent: Tree) -> list[Tensor]:
        """The tensors that stand for packed ones, if what was sent fits them."""
        if not isinstance(sent, Packed) or type(sent.key) is not int or not 0 <= sent.key < 1 << 63:
            raise ValueError("it is not packed")
        for part, dtype in ((sent.codes, torch.uint8), (sent.numbers, torch.float32)):
            if not isinstance(part, Tensor) or part.dtype is not dtype or part.dim() != 1:
                raise ValueError("its parts are not vectors of codes and numbers")
        if not bool(sent.numbers.isfinite().all()):
            raise ValueError("its numbers are not finite")
        places = [part for part in tree.tensors(sent.outline) if _stands_for(part)]
        rooms = [self.room(math.prod(part.shape[:-1])) for part in places]
        if [sum(room[i] for room in rooms) for i in range(2)] != [len(sent.codes), len(sent.numbers)]:
            raise ValueError("it has other codes than its outline asks for")
        return places


def _stands_for(part: Tensor) -> bool:
    """Whether this tensor of an outline stands for a packed one."""
    return part.is_floating_point() and part.dim() > 0 and part.shape[-1] == 0
