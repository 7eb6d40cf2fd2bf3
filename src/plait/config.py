"""Configuration: frozen dataclasses to and from plain data and YAML, with dotted overrides.

Everything is strict. An unknown key is an error that names the place and the nearest key; a value of another type is
an error that says both. Where the type of a field leaves the class open (a union of dataclasses, a protocol, a base
class), the plain form says which one it is: `{"kind": "Cosine", ...}`, and `{"kind": "package.module:Cosine", ...}`
when the field's type does not list the class.

YAML is read by the rules of its version 1.2, as written by people: `1e-4` is a float; `on`, `no` and `12:30` are text.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from plait.errors import ConfigError

T = TypeVar("T")
_UNKNOWN: Any = object()  # the type of a place that no annotation describes


def to_plain(value: Any) -> Any:
    """Plain data (mappings, lists, numbers, strings, booleans, None) that says the same as `value`.

    Enumeration members become their names, paths strings, classes and functions `"package.module:name"`.

    Raises:
        ConfigError: a value without a plain form: a lambda, a local function, a tensor.
    """
    return _plain(value, type(value), "")


def from_plain(cls: type[T], value: Any) -> T:
    """The object of type `cls` (a dataclass, or any annotation that a field may have) that `value` describes.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type; says the place.
    """
    return typing.cast("T", _build(cls, value, ""))


def override(value: T, assignments: Sequence[str]) -> T:
    """A copy of `value` with each `"a.b.c=3"` applied in turn.

    A path walks through fields of dataclasses, elements of tuples (by index, or by their field `name`) and keys of
    mappings. What follows `=` is YAML and must fit the type of the field.

    Raises:
        ConfigError: no `=`, a path that leads nowhere (names the nearest), or a value of the wrong type.
    """
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        if not sign or not path:
            raise ConfigError(f"{assignment!r} is no assignment: write KEY=VALUE")
        value = _assign(value, _UNKNOWN, path.strip(), "", text)
    return value


def difference(old: Any, new: Any) -> list[str]:
    """The paths at which two configurations (objects or plain data) differ, in the form that `override` takes."""
    return list(_differing(to_plain(old), to_plain(new), ""))


def write_yaml(value: Any, path: str | Path) -> None:
    """Write the plain form of `value` as YAML; the file appears whole or not at all."""
    text = yaml.dump(to_plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    partial = Path(f"{path}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_yaml(path: str | Path) -> Any:
    """The plain data in a YAML file.

    Raises:
        ConfigError: missing, no YAML, or a key given twice; names the file and the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); check the path") from error
    return _parse(text, str(path))


# ---- YAML


class _Loader(yaml.SafeLoader):
    """Plain data only, by the scalars of YAML 1.2; a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice: keep one", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The counterpart of `_Loader`: quotes the strings that it would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Equal parts are written out, not pointed to: a reader should not have to follow anchors."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if re.search(r"[^\S ]|\ufeff", text) else None  # in any other style PyYAML folds rare line breaks
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}  # those of YAML 1.1, which the base class holds, are not wanted
    for _kind, _pattern in (
        ("bool", r"true|True|false|False"),
        ("int", r"[-+]?(0|[1-9][0-9_]*)"),
        ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?"),
        ("float", r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(inf|Inf)|\.(nan|NaN)"),
        ("null", r"~|null|Null|"),
    ):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), None)


def _parse(text: str, name: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data and nothing else
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark and "\n" in text else ""
        raise ConfigError(f"{name}{where}: {getattr(error, 'problem', None) or error}") from error


# ---- objects to plain data


def _plain(value: Any, declared: Any, path: str) -> Any:
    match value:
        case enum.Enum():
            return value.name
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case Mapping():
            return {
                _plain_key(key, path): _plain(item, _inner(declared, item, 1), _join(path, key))
                for key, item in value.items()
            }
        case list() | tuple():
            return [_plain(item, _inner(declared, item, i), _join(path, i)) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain_dataclass(value, declared, path)
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return _qualified(value, path)
    raise ConfigError(f"{_at(path)}{_shown(value)} has no plain form: use numbers, text or a dataclass")


def _plain_dataclass(value: Any, declared: Any, path: str) -> dict[str, Any]:
    cls = type(value)
    hints = _hints(cls)
    names = [field.name for field in dataclasses.fields(value) if field.init]
    plain = {name: _plain(getattr(value, name), hints[name], _join(path, name)) for name in names}
    options = [option for option in _options(declared) if option is not types.NoneType]
    if options == [cls]:
        return plain
    if "kind" in plain:
        raise ConfigError(f"{_at(path)}{cls.__name__} needs a tag 'kind' here but has a field of that name: rename it")
    return {"kind": cls.__name__ if cls in options else _qualified(cls, path), **plain}


def _plain_key(key: Any, path: str) -> str | int:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ConfigError(f"{_at(path)}the key {_shown(key)} has no plain form: use text or whole numbers")
    return key


def _qualified(value: Any, path: str) -> str:
    name = f"{value.__module__}:{value.__qualname__}"
    if "<" in name:
        raise ConfigError(f"{_at(path)}{name} has no name that can be written down: move it to the top of its module")
    return name


# ---- plain data to objects


def _build(declared: Any, value: Any, path: str) -> Any:
    options = _options(declared)
    if len(options) > 1:
        return _build_union(options, value, path)
    declared = options[0]
    origin = typing.get_origin(declared) or declared
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in typing.get_args(declared)):
            raise _mismatch(declared, value, path, typing.get_args(declared))
        return value
    if origin in (tuple, list, Sequence, Collection):
        return _build_list(declared, origin, value, path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(declared, value, path)
        key, item = typing.get_args(declared) or (Any, Any)
        return {_build(key, k, _join(path, k)): _build(item, v, _join(path, k)) for k, v in value.items()}
    if origin in (Callable, type):
        called = origin is Callable and _tag(value)  # an object that is called, such as a transform of sequences
        return _build_untyped(value, path) if called else _named(value, declared, path)
    if isinstance(origin, type) and dataclasses.is_dataclass(origin) and (not _tag(value) or "kind" in _hints(origin)):
        return _build_dataclass(origin, value, path)
    if isinstance(origin, type) and origin is not object and origin is not Any:
        return _build_scalar(origin, value, path)
    return _build_untyped(value, path)


def _build_scalar(cls: type, value: Any, path: str) -> Any:
    if cls is float and type(value) is int:
        return float(value)
    if cls in (int, float, str, bool, types.NoneType):
        if type(value) is not cls:
            raise _mismatch(cls, value, path)
        return value
    if issubclass(cls, Path) and isinstance(value, str):
        return cls(value)
    if issubclass(cls, enum.Enum):
        if value not in cls.__members__:
            raise _mismatch(cls, value, path, list(cls.__members__))
        return cls[value]
    kind = _tag(value)
    if kind is None and isinstance(value, str):  # a protocol with __call__
        return _named(value, cls, path)
    if kind is None:
        raise _mismatch(cls, value, path)
    found = cls if kind == cls.__name__ else _named(kind, type, _join(path, "kind"))
    fits = getattr(cls, "_is_protocol", False) or (isinstance(found, type) and issubclass(found, cls))
    if not fits or not dataclasses.is_dataclass(found):
        raise ConfigError(f"{_at(path)}expected a {cls.__name__}, got kind {kind!r}")
    return _build_dataclass(typing.cast("type", found), _untagged(value), path)


def _build_dataclass(cls: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(cls, value, path)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in value:
        if key not in fields:
            raise _unknown(f"{_at(path)}{cls.__name__}", key, fields)
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in value and not optional:
            raise ConfigError(f"{_at(path)}{cls.__name__} needs {name!r}: give it a value ({_name(hints[name])})")
    return cls(**{key: _build(hints[key], item, _join(path, key)) for key, item in value.items()})


def _build_list(declared: Any, origin: Any, value: Any, path: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _mismatch(declared, value, path)
    args = typing.get_args(declared)
    if origin is tuple and args and args[-1] is not Ellipsis and len(args) != len(value):
        raise ConfigError(f"{_at(path)}expected {len(args)} elements, got {len(value)}: {_shown(value)}")
    items = [_build(_inner(declared, Any, i), item, _join(path, i)) for i, item in enumerate(value)]
    return items if origin is list else tuple(items)


def _build_union(options: Sequence[Any], value: Any, path: str) -> Any:
    classes = {o.__name__: o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)}
    kind = _tag(value)
    if kind in classes:
        return _build_dataclass(classes[kind], _untagged(value), path)
    if kind is not None and ":" not in kind and classes:
        raise _unknown(f"{_at(path)}kind", kind, classes)
    if isinstance(value, Mapping) and kind is None and len(classes) > 1:
        raise ConfigError(f"{_at(path)}says no 'kind': give one of {', '.join(classes)}")
    exact = [option for option in options if option is type(value)]
    rest = [option for option in options if option is not type(value)]
    failures = []
    for option in exact + rest:
        try:
            return _build(option, value, path)
        except ConfigError as error:
            failures.append((option, error))
    shaped = [error for option, error in failures if _same_shape(option, value)]
    raise shaped[0] if len(shaped) == 1 else _mismatch(typing.Union[tuple(options)], value, path)  # noqa: UP007


def _build_untyped(value: Any, path: str) -> Any:
    if (kind := _tag(value)) and ":" in kind:
        return _build_dataclass(_named(kind, type, _join(path, "kind")), _untagged(value), path)
    if isinstance(value, Mapping):
        return {key: _build_untyped(item, _join(path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_build_untyped(item, _join(path, i)) for i, item in enumerate(value))
    return value


def _named(value: Any, declared: Any, path: str) -> Any:
    """The class or function that `"package.module:name"` names.

    Only what the named module itself defines; only Plait's modules are imported for it, and the standard library is
    refused: a configuration file may come from a stranger, and must not reach `os.system`.
    """
    module_name, sign, qualname = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not sign:
        raise _mismatch(declared, value, path)
    if module_name.split(".")[0] == "plait" and module_name not in sys.modules:
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{_at(path)}{value!r}: there is no module {error.name}") from error
    module = sys.modules.get(module_name)
    if module is None or module_name.split(".")[0] in sys.stdlib_module_names - {"__main__"}:
        raise ConfigError(
            f"{_at(path)}{value!r}: the module {module_name} is not loaded; load the file that defines it"
        )
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if getattr(found, "__module__", None) != module_name or getattr(found, "__qualname__", None) != qualname:
        raise _unknown(f"{_at(path)}{module_name}", qualname, vars(module))
    if (declared is type or typing.get_origin(declared) is type) and not isinstance(found, type):
        raise _mismatch(declared, value, path)
    return found


# ---- overrides and differences


def _assign(value: Any, declared: Any, path: str, done: str, text: str) -> Any:
    if not path:
        return _leaf(type(value) if declared is _UNKNOWN else declared, text, done)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        name, rest = _step(path, names, done or type(value).__name__)
        new = _assign(getattr(value, name), _hints(type(value))[name], rest, _join(done, name), text)
        return dataclasses.replace(value, **{name: new})
    if isinstance(value, Mapping):
        keys = {str(key): key for key in value}
        name, rest = _step(path, list(keys), done)
        old = value[keys[name]]
        return {**value, keys[name]: _assign(old, _inner(declared, old, 1), rest, _join(done, name), text)}
    if isinstance(value, list | tuple):
        labels = _labels(value)
        name, rest = _step(path, [*labels, *map(str, range(len(value)))], done)
        at = labels.index(name) if name in labels else int(name)
        items = list(value)
        items[at] = _assign(items[at], _inner(declared, items[at], at), rest, _join(done, name), text)
        return type(value)(items)
    raise ConfigError(f"{_at(done)}{_shown(value)} has no parts, so no {path!r}: assign to {done} itself")


def _step(path: str, names: Sequence[str], where: str) -> tuple[str, str]:
    """The longest of `names` (they may hold dots themselves) with which `path` begins, and what is left of it."""
    for name in sorted(names, key=len, reverse=True):
        if path == name or path.startswith(f"{name}."):
            return name, path[len(name) + 1 :]
    raise _unknown(where, path.partition(".")[0], names)


def _leaf(declared: Any, text: str, path: str) -> Any:
    value = _parse(text, path)
    try:
        return _build(declared, value, path)
    except ConfigError:
        if str not in _options(declared) or isinstance(value, str):
            raise
        return text.strip()  # `name=12` for a field that holds text


def _differing(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        left, right = old, new
    elif isinstance(old, list) and isinstance(new, list):
        left, right = (dict(zip(_labels(side), side, strict=True)) for side in (old, new))
        if list(left) != list(right) and set(left) == set(right):
            yield path  # the same parts in another order
            return
    else:
        if old != new or isinstance(old, bool) != isinstance(new, bool):
            yield path
        return
    for key in dict.fromkeys([*left, *right]):
        if key in left and key in right:
            yield from _differing(left[key], right[key], _join(path, key))
        else:
            yield _join(path, key)


def _labels(items: Sequence[Any]) -> list[str]:
    """How the elements are called in a path: by their `name` where all have one of their own, or else by index."""
    names = [item.get("name") if isinstance(item, Mapping) else getattr(item, "name", None) for item in items]
    distinct = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return typing.cast("list[str]", names) if distinct else [str(i) for i in range(len(items))]


# ---- types and words


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _options(declared: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        return tuple(option for member in typing.get_args(declared) for option in _options(member))
    return (declared,)


def _inner(declared: Any, item: Any, index: int) -> Any:
    """The annotation of an element of a container: the one at `index`, or `item`'s own where none is given."""
    for option in _options(declared):
        args = typing.get_args(option)
        if typing.get_origin(option) is tuple and args[-1:] != (Ellipsis,) and index < len(args):
            return args[index]
        if typing.get_origin(option) in (tuple, list, Sequence, Collection) and args:
            return args[0]
        if typing.get_origin(option) in (dict, Mapping) and args:
            return args[1]
    return _UNKNOWN


def _same_shape(option: Any, value: Any) -> bool:
    origin = typing.get_origin(option) or option
    if isinstance(value, Mapping):
        return dataclasses.is_dataclass(origin) or origin in (dict, Mapping)
    return isinstance(value, list | tuple) and origin in (tuple, list, Sequence, Collection)


def _tag(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return kind if isinstance(kind, str) else None


def _untagged(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "kind"}


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _name(declared: Any) -> str:
    if isinstance(declared, type) and not typing.get_args(declared):
        return "None" if declared is types.NoneType else declared.__name__
    if len(options := _options(declared)) > 1:
        return " | ".join(_name(option) for option in options)
    return str(declared).replace("typing.", "").replace("collections.abc.", "")


def _mismatch(declared: Any, value: Any, path: str, choices: Sequence[Any] = ()) -> ConfigError:
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    wanted = f"one of {', '.join(map(repr, choices))}" if choices else _name(declared)
    return ConfigError(f"{_at(path)}expected {wanted}, got {_shown(value)}{hint}")


def _unknown(where: str, key: Any, names: Collection[str]) -> ConfigError:
    near = difflib.get_close_matches(str(key), names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names) or 'nothing'}"
    return ConfigError(f"{_at(where)}unknown key {key!r}; {hint}")
