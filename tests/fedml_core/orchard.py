"""A module that is to be imported only when one of its fruits is asked for."""

from fedml_core.settings import settings
from tests.fedml_core.test_settings import Fruit, fruits


@fruits.register("apple")
@settings
class Apple(Fruit):
    """Grows here."""


@fruits.register("pear")
@settings
class Pear(Fruit):
    """Grows here, too."""
