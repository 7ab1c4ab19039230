"""Typed settings: frozen dataclasses that check themselves, and registries that find them by name.

A setting's allowed values are said once, in its annotation (`lr: Annotated[float, Meta(gt=0)]`), and hold however the object is
made: by a Python call or from a configuration file through `build`. What one field cannot say alone goes into a
`problems()` method. Everything that can be chosen by name (algorithms, models, data sets, engines, ...) stands in a `Registry`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, ValuesView
from typing import Any, Generic, TypeVar, Union, dataclass_transform

import msgspec

from fedml_core.errors import ConfigError, unknown

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass that refuses values its annotations (and its `problems()`) do not allow.

    Raises:
        ConfigError: on construction, naming every field at fault.
    """

    def check(self: Any) -> None:
        problems = [
            f"{type(self).__name__}.{name}{fault}"
            for name, hint in hints(self.__class__).items()
            if (fault := _fault(getattr(self, name), hint))
        ]
        problems += [] if problems else [f"{type(self).__name__}: {line}" for line in own_problems(self)]
        if problems:
            raise ConfigError(problems)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def own_problems(value: object) -> Iterable[str]:
    """What `value` says against itself: the lines of its `problems()` method, if it has one."""
    report = getattr(value, "problems", None)
    return report() if callable(report) else ()


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes of one kind by name. `kind` is the word used in messages, `base` the type that fields are annotated with.

    A name is known from when it is declared, or else from when its class is there. The module of a declared name is imported when
    the class is asked for.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        self._homes: dict[str, str] = {}
        _registries[base] = self

    def declare(self, package: str, modules: Mapping[str, str]) -> None:
        """Say which module registers which names, separated by spaces; `.module` is one of the package."""
        homes = {name: importlib.util.resolve_name(module, package) for module, names in modules.items() for name in names.split()}
        for name, home in homes.items():
            if self.homes.get(name, home) != home:
                raise ValueError(f"{self.kind} '{name}' is registered already, by {self.homes[name]}")
        self._homes |= homes

    @property
    def homes(self) -> dict[str, str]:
        """The module of every name."""
        return self._homes | {name: cls.__module__ for name, cls in self._classes.items()}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make the class available under `name`; a name can be given only once."""

        def add(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            # The same class again is a notebook cell run twice.
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"{self.kind} '{name}' is registered already, by {known.__qualname__}")
            if self._homes.get(name, cls.__module__) != cls.__module__:
                raise ValueError(f"{self.kind} '{name}' is registered already, by {self._homes[name]}")
            self._classes[name] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> type[T]:
        if name not in self:
            raise ConfigError(unknown(self.kind, name, self))
        if name not in self._classes:
            importlib.import_module(self._homes[name])
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._homes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes.keys() | self._homes))

    def __len__(self) -> int:
        return len(self._classes.keys() | self._homes)

    def values(self) -> ValuesView[type[T]]:
        return _Classes(self)

    def has(self, cls: type) -> bool:
        """Whether this class is registered. Nothing is imported: a class that is there has been registered."""
        return cls in self._classes.values()

    def name_of(self, cls: type) -> str:
        """The name under which `cls` was registered, or its own name if it was not."""
        return next((name for name, known in self._classes.items() if known is cls), cls.__qualname__)


class _Classes(ValuesView[type[T]]):
    """All classes, of which one that is asked for is sought without importing the others."""

    _mapping: Registry[T]

    def __contains__(self, cls: object) -> bool:
        return isinstance(cls, type) and self._mapping.has(cls)


_registries: dict[type, Registry[Any]] = {}


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
    """Field name -> resolved annotation, constraints included."""
    resolved = typing.get_type_hints(cls, include_extras=True)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls)}


def _parts(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the hint alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_object(hint: Any) -> bool:
    return isinstance(hint, type) and (hint in _registries or dataclasses.is_dataclass(hint))


def _element(hint: Any) -> Any:
    """X of `tuple[X, ...]` when X is an object that can be configured, else None."""
    arguments = typing.get_args(hint)
    return arguments[0] if typing.get_origin(hint) is tuple and arguments and _is_object(arguments[0]) else None


def _fault(value: Any, hint: Any) -> str | None:
    """What is wrong with an already constructed value, or None."""
    parts = _parts(hint)
    if any(_is_object(part) and isinstance(value, part) for part in parts):
        return None
    if (element := _element(hint)) is not None:
        bad = isinstance(value, tuple) and [item for item in value if not isinstance(item, element)]
        return None if bad == [] else f" = {value!r}: must be a tuple of {element.__name__}"
    return _convert(value, hint, strict=True)[1]


def _convert(value: Any, hint: Any, strict: bool) -> tuple[Any, str | None]:
    """A plain value in the type of its annotation, and what is wrong with it if that cannot be."""
    plain = tuple(part for part in _parts(hint) if not _is_object(part))
    objects = " or ".join(_allowed(part) for part in _parts(hint) if _is_object(part))
    if not plain:
        return value, f" = {value!r}: must be {objects}"
    try:
        return msgspec.convert(value, functools.reduce(operator.or_, plain), strict=strict), None
    except msgspec.ValidationError as error:
        text = str(error).replace("`", "")
        choices = [str(choice) for part in plain if typing.get_origin(part) is typing.Literal for choice in typing.get_args(part)]
        text += f". Allowed: {', '.join(choices)}" if choices else ""
        return value, f" = {value!r}: {text[0].lower()}{text[1:]}" + (f", or {objects}" if objects else "")


def _allowed(hint: type) -> str:
    """What a field of this type takes, in words."""
    registry = _registries.get(hint)
    return f"a {registry.kind} ({', '.join(registry)})" if registry else f"a {hint.__name__}"


def build(hint: Any, data: Any, path: str, problems: list[str], default: Any = None) -> Any:
    """A value of type `hint` from plain data (what a YAML file holds); every fault is appended to `problems`.

    A mapping becomes the settings class, or, where a registry stands behind the type, the class its `name` says; a bare string
    is short for `{name: string}`. A faulty part is replaced by `default`, so that the rest can still be checked.
    """
    for part in _parts(hint):
        if part is type(None) and data is None:
            return None
        if isinstance(part, type) and isinstance(data, part) and _is_object(part):
            return data
    if (element := _element(hint)) is not None and isinstance(data, list):
        found = [build(element, item, f"{path}[{i}]", problems) for i, item in enumerate(data)]
        return tuple(item for item in found if item is not None)
    for part in sorted(_parts(hint), key=lambda part: not _knows(part, data)):
        if part in _registries and isinstance(data, (str, dict)):
            if isinstance(data, str) and _convert(data, hint, strict=False)[1] is None:
                break
            return _build_choice(_registries[part], data, path, problems, default)
        if _is_object(part) and isinstance(data, dict):
            return _build_object(part, data, path, problems, default)
    value, fault = _convert(data, hint, strict=False)
    if fault is None:
        return value
    problems.append(path + fault)
    return default


def _knows(hint: Any, data: Any) -> bool:
    """Whether the registry behind this type has the name that is asked for: where a field takes objects of two kinds."""
    name = data.get("name") if isinstance(data, dict) else data
    return hint in _registries and isinstance(name, str) and name in _registries[hint]


def _build_choice(registry: Registry[Any], data: str | dict[str, Any], path: str, problems: list[str], default: Any) -> Any:
    rest = {} if isinstance(data, str) else dict(data)
    name = data if isinstance(data, str) else rest.pop("name", None)
    if name is None and type(default) in registry.values():
        name = registry.name_of(type(default))
    if name is None:
        problems.append(f"{path}: the name of the {registry.kind} is missing. Allowed: {', '.join(registry)}")
    elif not isinstance(name, str) or name not in registry:
        problems.append(f"{path}: {unknown(registry.kind, name, registry)}")
    else:
        return _build_object(registry[name], rest, path, problems, default)
    return default


def _build_object(cls: type, data: dict[str, Any], path: str, problems: list[str], default: Any) -> Any:
    prefix = f"{path}." if path else ""
    fields = hints(cls)
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(cls)
    }
    if type(default) is cls:
        defaults = {name: getattr(default, name) for name in fields}
    values: dict[str, Any] = {}
    for name, item in data.items():
        if name == "name" and name not in fields and item in registered_names(cls):
            continue
        if name in fields:
            fallback = defaults[name] if defaults[name] is not dataclasses.MISSING else None
            values[name] = build(fields[name], item, prefix + name, problems, fallback)
        else:
            problems.append(f"{prefix}{name}: {unknown('key', name, fields)}")
    missing = [name for name in fields if name not in values and defaults[name] is dataclasses.MISSING]
    problems += [f"{prefix}{name}: missing; it has no default" for name in missing]
    if missing:
        return default
    values = {**defaults, **values}
    try:
        return cls(**values)
    except ConfigError as error:
        problems += [f"{path}: {line.partition(': ')[2] or line}" for line in error.problems]
        return default


def registered_names(cls: type) -> list[str]:
    """The names that registries have for a class: where only this class will do, its name may be given, and need not."""
    return [registry.name_of(cls) for registry in _registries.values() if cls in registry.values()]


def to_plain(value: Any) -> Any:
    """The inverse of `build`: settings as mappings, lists and scalars, with the `name` of each choice."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": names[0], **plain} if (names := registered_names(type(value))) else plain
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value
