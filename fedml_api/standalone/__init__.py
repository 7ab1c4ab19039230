"""The in-process engine. Algorithms are in `fedml_api.algorithms`."""

from fedml_api.standalone.engine import Standalone

__all__ = ["Standalone"]
