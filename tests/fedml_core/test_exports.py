"""Importing late leaves Python's garbage collector as it was."""

import gc
import sys
import types

import pytest

from fedml_core.exports import exports


@pytest.fixture
def package(monkeypatch):
    """A package of which two names come from elsewhere."""
    made = types.ModuleType("market")
    made.__getattr__, made.__dir__ = exports("market", {"json": "loads dumps", "nowhere": "melon"})
    made.__all__ = ["loads", "dumps", "melon"]
    monkeypatch.setitem(sys.modules, "market", made)
    return made


def test_a_name_is_found_once(package):
    import json

    assert "loads" not in vars(package)
    assert package.loads is json.loads
    assert vars(package)["loads"] is json.loads
    assert sorted(dir(package)) == ["dumps", "loads", "melon"]
    with pytest.raises(AttributeError, match="module 'market' has no attribute 'load'"):
        package.load  # noqa: B018


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("name", ["loads", "melon"])
def test_garbage_is_collected_as_before(package, enabled, name):
    before, frozen = gc.isenabled(), gc.get_freeze_count()
    (gc.enable if enabled else gc.disable)()
    try:
        if name == "melon":
            with pytest.raises(ModuleNotFoundError):
                package.melon  # noqa: B018
        else:
            package.loads  # noqa: B018
        assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, frozen)
    finally:
        (gc.enable if before else gc.disable)()


def test_what_was_frozen_stays_so(package):
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        package.loads  # noqa: B018
        assert gc.get_freeze_count() >= frozen - 100  # some are let go by count, as ever
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
