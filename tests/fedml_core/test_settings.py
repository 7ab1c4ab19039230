import json
import subprocess
import sys
from typing import Annotated

import pytest
from msgspec import Meta

from fedml_core.errors import ConfigError
from fedml_core.settings import Registry, build, settings, to_plain


class Shape:
    """Something to choose."""


shapes: Registry[Shape] = Registry("shape", Shape)


@shapes.register("circle")
@settings
class Circle(Shape):
    radius: Annotated[float, Meta(gt=0)] = 1.0


@shapes.register("box")
@settings
class Box(Shape):
    width: Annotated[int, Meta(ge=1)] = 2
    height: Annotated[int, Meta(ge=1)] | None = None

    def problems(self):
        if self.height is not None and self.height > self.width:
            yield f"height = {self.height} must not exceed width = {self.width}"


@settings
class Drawing:
    shape: Shape = Circle()
    size: Annotated[float, Meta(ge=0)] | Shape = 1.0
    parts: tuple[Shape, ...] = ()
    title: str = "none"
    frame: Box = Box()


def built(data):
    problems: list[str] = []
    value = build(Drawing, data, "", problems, Drawing())
    return value, problems


def test_build_makes_nested_choices():
    data = {"shape": {"name": "box", "width": 5}, "size": "circle", "parts": ["box", {"name": "circle", "radius": 3}], "title": "t"}
    assert built(data) == (Drawing(Box(5), Circle(), (Box(), Circle(3.0)), "t"), [])


def test_a_choice_without_a_name_keeps_the_default_class():
    assert built({"shape": {"radius": 4}}) == (Drawing(Circle(4.0)), [])


def test_plain_data_round_trips():
    drawing = Drawing(Box(5, 3), Circle(2.0), (Box(), Circle()), "t")
    assert built(to_plain(drawing)) == (drawing, [])


@settings
class Stamp:
    box: Box = Box()


def test_where_there_is_no_choice_the_name_may_be_said_but_no_other():
    problems: list[str] = []
    assert build(Stamp, to_plain(Stamp(Box(7))), "", problems) == Stamp(Box(7))
    assert problems == []
    for name in ("circle", ["box"]):
        build(Stamp, {"box": {"name": name}}, "", problems)
    assert [problem.partition(":")[0] for problem in problems] == ["box.name", "box.name"]


def test_numbers_written_as_yaml_reads_them():
    # PyYAML follows YAML 1.1, in which 1e-3 is a string.
    assert built({"size": "1e-3"}) == (Drawing(size=1e-3), [])
    assert built({"size": 2}) == (Drawing(size=2.0), [])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"sahpe": "box"}, ["sahpe: unknown key 'sahpe': did you mean 'shape'? Allowed: frame, parts, shape, size, title"]),
        ({"shape": "boks"}, ["shape: unknown shape 'boks': did you mean 'box'? Allowed: box, circle"]),
        ({"shape": {"name": None}}, []),
        ({"shape": {"radius": -1}}, ["shape.radius = -1: expected float > 0.0"]),
        ({"shape": {"name": "box", "width": 2.5}}, ["shape.width = 2.5: expected int, got float"]),
        ({"shape": {"name": "box", "width": 2, "height": 3}}, ["shape: height = 3 must not exceed width = 2"]),
        ({"shape": 3}, ["shape = 3: must be a shape (box, circle)"]),
        ({"size": -2}, ["size = -2: expected float >= 0.0, or a shape (box, circle)"]),
        ({"size": "boks"}, ["size: unknown shape 'boks': did you mean 'box'? Allowed: box, circle"]),
        ({"parts": ["box", "boks"]}, ["parts[1]: unknown shape 'boks': did you mean 'box'? Allowed: box, circle"]),
        ({"title": ["x"]}, ["title = ['x']: expected str, got array"]),
        ({"shape": "boks", "size": -1, "titel": 1}, ["shape:", "size = -1", "titel:"]),
        ({"size": {"radius": 2}}, ["size: the name of the shape is missing. Allowed: box, circle"]),
        ({"shape": {"name": ["box"]}}, ["shape: unknown shape '['box']'"]),
        ({"shape": None}, ["shape = None: must be a shape (box, circle)"]),
    ],
)
def test_faults_are_named_with_what_is_allowed_and_all_reported(data, expected):
    problems = built(data)[1]
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)


def test_construction_in_python_is_checked_too():
    with pytest.raises(ConfigError, match=r"Circle.radius = -1.0: expected float > 0.0"):
        Circle(-1.0)
    with pytest.raises(ConfigError, match=r"Box: height = 9 must not exceed"):
        Box(2, 9)
    with pytest.raises(ConfigError, match=r"Drawing.parts = .*must be a tuple of Shape"):
        Drawing(parts=(3,))  # type: ignore[arg-type]


def test_a_registry_refuses_a_second_class_under_one_name():
    with pytest.raises(ValueError, match="registered already, by Box"):
        shapes.register("box")(Circle)
    with pytest.raises(ConfigError, match="did you mean 'circle'"):
        shapes["cirle"]


@settings
class Fruit:
    """Something to choose, of which most lies in modules that are not imported yet."""

    kernels: int = 2


fruits: Registry[Fruit] = Registry("fruit", Fruit)
fruits.declare("tests.fedml_core", {".orchard": "apple pear", ".nowhere": "melon"})


def test_declared_names_are_known_and_their_module_is_imported_when_one_is_asked_for():
    assert list(fruits) == ["apple", "melon", "pear"]
    assert len(fruits) == 3
    assert "pear" in fruits
    with pytest.raises(ConfigError, match=r"did you mean 'apple'\? Allowed: apple, melon, pear"):
        fruits["aple"]
    assert not fruits.has(Fruit)
    assert Fruit not in fruits.values()
    assert "tests.fedml_core.orchard" not in sys.modules
    apple = build(Fruit, "apple", "fruit", [])
    assert to_plain(apple) == {"name": "apple", "kernels": 2}
    assert fruits.name_of(type(apple)) == "apple"
    # Whether a class is there is known without the module that does not exist.
    assert type(apple) in fruits.values()
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        list(fruits.values())


def test_a_declared_name_is_taken():
    with pytest.raises(ValueError, match=r"fruit 'melon' is registered already, by tests\.fedml_core\.nowhere"):
        fruits.register("melon")(Fruit)
    with pytest.raises(ValueError, match=r"fruit 'melon' is registered already, by tests\.fedml_core\.nowhere"):
        fruits.declare("market", {".stalls": "melon"})
    with pytest.raises(ValueError, match=r"shape 'box' is registered already, by tests\.fedml_core\.test_settings"):
        shapes.declare("market", {".stalls": "box"})
    fruits.declare("tests.fedml_core", {".nowhere": "melon"})


AGREE = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
from fedml_core.settings import _registries
declared = {registry.kind: dict(registry.homes) for registry in _registries.values()}
for module in pkgutil.iter_modules(package.__path__, sys.argv[1] + "."):
    importlib.import_module(module.name)
wrong = [
    f"{registry.kind} '{name}' of {home}"
    for registry in _registries.values()
    if registry.kind in declared
    for name, home in registry.homes.items()
    if declared[registry.kind].get(name) != home
]
wrong += [
    f"{registry.kind} '{name}' not in {home}"
    for registry in _registries.values()
    for name, home in declared.get(registry.kind, {}).items()
    if registry[name].__module__ != home
]
print(json.dumps(wrong))
"""


@pytest.mark.parametrize(
    "package", ["fedml_core.partition", "fedml_api.algorithms", "fedml_api.data", "fedml_api.distributed", "fedml_api.model"]
)
def test_what_is_declared_is_what_the_modules_register(package):
    """In a process of its own: the names before and after all modules of the package are imported, and where their classes are."""
    done = subprocess.run([sys.executable, "-c", AGREE, package], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
