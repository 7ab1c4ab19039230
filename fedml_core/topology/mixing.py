"""Mixing matrices: what a node makes of what its neighbours send.

`matrix[i, j]` is the weight, in what node i has next, of what node j had; float64 `[nodes, nodes]`. It is positive on the diagonal
and where the graph has a link from j to i, and 0 elsewhere. If the rows sum to 1, nodes that agree go on to agree; if the columns
do, the sum over all nodes stays what it is.
"""

from __future__ import annotations

import numpy as np

from fedml_core.errors import ConfigError
from fedml_core.topology.topology import Graph, is_symmetric


def metropolis(graph: Graph) -> np.ndarray:
    """W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, and what is missing to 1 on the diagonal: symmetric, doubly stochastic.

    Xiao, Boyd and Kim, Journal of Parallel and Distributed Computing 67, 2007, after the Metropolis-Hastings chain.

    Raises:
        ConfigError: a link goes one way only.
    """
    if not is_symmetric(graph):
        one, other = np.argwhere(graph & ~graph.T)[0].tolist()
        raise ConfigError(
            f"metropolis weights need links that go both ways, and node {one} sends to node {other}, which sends nothing back: "
            "choose an undirected topology (ring, torus, regular, small_world, complete), or uniform weights"
        )
    degrees = graph.sum(axis=1)
    matrix = np.where(graph, 1 / (1 + np.maximum(degrees, degrees[:, None])), 0.0)
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix


def uniform_in(graph: Graph) -> np.ndarray:
    """The plain mean of what a node has and hears: rows sum to 1."""
    heard = graph.T | np.eye(len(graph), dtype=bool)
    matrix: np.ndarray = heard / heard.sum(axis=1, keepdims=True)
    return matrix


def uniform_out(graph: Graph) -> np.ndarray:
    """Every node gives equal shares of what it has to itself and those it sends to: columns sum to 1."""
    return uniform_in(graph.T).T


def check_stochastic(matrix: np.ndarray, rows: bool, columns: bool, remedy: str) -> None:
    """Before it is used.

    Raises:
        ConfigError: a weight is negative, or a sum that has to be 1 is not; ends in the `remedy`.
    """
    if matrix.min() < 0:
        raise ConfigError(f"a mixing matrix has the weight {matrix.min():g}, and none may be negative: {remedy}")
    for what, axis in [("row", 1)] * rows + [("column", 0)] * columns:
        sums = matrix.sum(axis=axis)
        worst = int(np.argmax(abs(sums - 1)))
        if abs(sums[worst] - 1) > 1e-9:
            raise ConfigError(f"{what} {worst} of the mixing matrix sums to {sums[worst]:.4g}, and each must sum to 1: {remedy}")


def second_eigenvalue(matrix: np.ndarray) -> float:
    """The second largest modulus of an eigenvalue; the largest is 1."""
    moduli = np.sort(abs(np.linalg.eigvals(matrix)))
    return float(moduli[-2]) if len(moduli) > 1 else 0.0


def spectral_gap(matrix: np.ndarray) -> float:
    """1 - |lambda_2|: the distance of nodes from their mean shrinks by the factor |lambda_2| with every exchange, or faster.

    At once if the matrix is symmetric, in the long run otherwise. Of several exchanges, take the product of their matrices.
    """
    return 1 - second_eigenvalue(matrix)
