"""What protocols of secure aggregation are made of: a prime field, codes and shares in it, and real numbers as its elements."""

from fedml_core.security.field import PrimeField
from fedml_core.security.fixed_point import FixedPoint
from fedml_core.security.lagrange import coefficients, interpolate
from fedml_core.security.shares import additive_shares

__all__ = ["FixedPoint", "PrimeField", "additive_shares", "coefficients", "interpolate"]
