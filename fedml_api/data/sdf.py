"""Molecules as chemists write them down: structure-data files of V2000 blocks, of which atoms, bonds and fields are read.

    name | program | comment | counts: aaabbb...V2000 | atoms | bonds | M  CHG ... | M  END | > <FIELD> | ... | $$$$

Dalby et al., J. Chem. Inf. Comput. Sci. 1992; CTfile Formats, BIOVIA. Coordinates, stereochemistry and isotopes are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedml_core.errors import DataError

# Charges in the column of an atom's line, where no M  CHG line says more.
CHARGES = {0: 0, 1: 3, 2: 2, 3: 1, 4: 0, 5: -1, 6: -2, 7: -3}
FIELD = re.compile(r"^>.*<([^>]+)>")


@dataclass(frozen=True)
class Molecule:
    """Elements and charges of atoms; bonds as two atoms, from 0, and their order (1 to 3, 4 is aromatic); fields as text."""

    elements: tuple[str, ...]
    charges: tuple[int, ...]
    bonds: tuple[tuple[int, int, int], ...]
    fields: dict[str, str]


def read_sdf(path: Path, remedy: str) -> list[Molecule]:
    """All molecules of a file, in order.

    Raises:
        DataError: naming file and molecule, where it is missing, truncated or not in this format.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); {remedy}") from None
    found: list[Molecule] = []
    for record in _records(lines):
        try:
            found.append(_molecule(record))
        except (ValueError, IndexError) as error:
            raise DataError(f"{path}: molecule {len(found) + 1}: {error}; {remedy}") from None
    if not found:
        raise DataError(f"{path}: has no molecules; {remedy}")
    return found


def _records(lines: list[str]) -> Iterator[list[str]]:
    record: list[str] = []
    for line in lines:
        record.append(line)
        if line.rstrip() == "$$$$":
            yield record
            record = []
    if any(line.strip() for line in record):
        yield record


def _molecule(lines: list[str]) -> Molecule:
    if lines[-1].rstrip() != "$$$$":
        raise ValueError("truncated: it does not end with $$$$")
    counts = lines[3] if len(lines) > 3 else ""
    if "V2000" not in counts:
        raise ValueError(f"its counts line is '{counts.strip()}', which is not V2000")
    atoms, bonds = _number(counts, 0), _number(counts, 3)
    rest = lines[4 + atoms + bonds :]
    if atoms < 1 or bonds < 0 or not any(line.startswith("M  END") for line in rest):
        raise ValueError(f"its counts line says {atoms} atoms and {bonds} bonds, and no M  END follows these")
    if sum(line.startswith("M  END") for line in rest) > 1:
        raise ValueError("has a second M  END: between two molecules there must be $$$$")
    rows = lines[4 : 4 + atoms]
    elements = tuple(row[31:34].strip() for row in rows)
    if strange := [element for element in elements if not re.fullmatch(r"[A-Z][a-z]?|\*", element)]:
        raise ValueError(f"an atom is '{strange[0]}', which is no element")
    charges = [CHARGES.get(_number(row, 36) if row[36:39].strip() else 0, 0) for row in rows]
    end = next(k for k, line in enumerate(rest) if line.startswith("M  END"))
    if charged := [pair for line in rest[:end] if line.startswith("M  CHG") for pair in _pairs(line)]:
        charges = [0] * atoms
        for atom, charge in charged:
            charges[_atom(atom, atoms)] = charge
    return Molecule(elements, tuple(charges), _bonds(lines[4 + atoms : 4 + atoms + bonds], atoms), _fields(rest[end + 1 :]))


def _bonds(rows: list[str], atoms: int) -> tuple[tuple[int, int, int], ...]:
    found: dict[frozenset[int], tuple[int, int, int]] = {}
    for row in rows:
        one, other, order = _atom(_number(row, 0), atoms), _atom(_number(row, 3), atoms), _number(row, 6)
        pair = frozenset((one, other))
        if len(pair) == 1 or pair in found or not 1 <= order <= 4:
            raise ValueError(f"bond '{row.rstrip()}' is of an atom with itself, or the second of two atoms, or of an unknown order")
        found[pair] = (one, other, order)
    return tuple(found.values())


def _fields(lines: list[str]) -> dict[str, str]:
    starts = [(k, match[1]) for k, line in enumerate(lines) if (match := FIELD.match(line))]
    return {name: lines[k + 1].strip() for k, name in starts}


def _pairs(line: str) -> Iterator[tuple[int, int]]:
    """Of `M  CHGnn8 aaa vvv ...`: atom and charge."""
    for k in range(_number(line, 6)):
        yield int(line[9 + 8 * k : 13 + 8 * k]), int(line[13 + 8 * k : 17 + 8 * k])


def _number(row: str, begin: int) -> int:
    text = row[begin : begin + 3].strip()
    if not re.fullmatch(r"-?\d+", text):
        raise ValueError(f"'{row.rstrip()}' has '{text}' where a whole number belongs")
    return int(text)


def _atom(number: int, atoms: int) -> int:
    if not 1 <= number <= atoms:
        raise ValueError(f"it names atom {number}; there are {atoms}")
    return number - 1
