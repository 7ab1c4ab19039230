"""Who holds which examples."""

from fedml_core.partition.by_column import Blocks, Continuous, Natural
from fedml_core.partition.columns import ColumnSplit
from fedml_core.partition.drift import Drift
from fedml_core.partition.features import FeatureSkew, Noise, Rotation, feature_skews
from fedml_core.partition.graph import communities, modularity
from fedml_core.partition.labels import ClassDirichlet, Classes, Dirichlet, Distribution, Shards
from fedml_core.partition.pachinko import Pachinko
from fedml_core.partition.partitioner import Columns, Partitioner, named, natural, partitioners
from fedml_core.partition.semantic import Semantic
from fedml_core.partition.sizes import Exponential, Iid, Lognormal, Power, Quantity, SizeLaw, Sizes, law_of_sizes, size_laws
from fedml_core.partition.split import matching_split, stratified_split

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
