"""Who holds which examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedml_core.exports import exports
from fedml_core.partition.partitioner import Columns, Partitioner, named, natural, partitioners

if TYPE_CHECKING:
    from fedml_core.partition.by_column import Blocks, Continuous, Natural
    from fedml_core.partition.columns import ColumnSplit
    from fedml_core.partition.drift import Drift
    from fedml_core.partition.features import FeatureSkew, Noise, Rotation, feature_skews
    from fedml_core.partition.graph import communities, modularity
    from fedml_core.partition.labels import ClassDirichlet, Classes, Dirichlet, Distribution, Shards
    from fedml_core.partition.pachinko import Pachinko
    from fedml_core.partition.semantic import Semantic
    from fedml_core.partition.sizes import Exponential, Iid, Lognormal, Power, Quantity, SizeLaw, Sizes, law_of_sizes, size_laws
    from fedml_core.partition.split import matching_split, stratified_split

# What each module exports, and the names of the partitioners that it registers.
_modules = {
    ".by_column": ("Blocks Continuous Natural", "natural blocks continuous"),
    ".columns": ("ColumnSplit", ""),
    ".drift": ("Drift", "drift"),
    ".features": ("FeatureSkew Noise Rotation feature_skews", ""),
    ".graph": ("communities modularity", ""),
    ".labels": ("ClassDirichlet Classes Dirichlet Distribution Shards", "dirichlet class_dirichlet shards classes distribution"),
    ".pachinko": ("Pachinko", "pachinko"),
    ".semantic": ("Semantic", "semantic"),
    ".sizes": (
        "Exponential Iid Lognormal Power Quantity SizeLaw Sizes law_of_sizes size_laws",
        "iid quantity lognormal power exponential sizes",
    ),
    ".split": ("matching_split stratified_split", ""),
}
__getattr__, __dir__ = exports(__name__, {module: names for module, (names, _) in _modules.items()})
partitioners.declare(__name__, {module: names for module, (_, names) in _modules.items()})

__all__ = [
    "Blocks",
    "ClassDirichlet",
    "Classes",
    "ColumnSplit",
    "Columns",
    "Continuous",
    "Dirichlet",
    "Distribution",
    "Drift",
    "Exponential",
    "FeatureSkew",
    "Iid",
    "Lognormal",
    "Natural",
    "Noise",
    "Pachinko",
    "Partitioner",
    "Power",
    "Quantity",
    "Rotation",
    "Semantic",
    "Shards",
    "SizeLaw",
    "Sizes",
    "communities",
    "feature_skews",
    "law_of_sizes",
    "matching_split",
    "modularity",
    "named",
    "natural",
    "partitioners",
    "size_laws",
    "stratified_split",
]
