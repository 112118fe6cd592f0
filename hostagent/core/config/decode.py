"""A manifest's `spec` into its struct, or one finding that an operator can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

S = TypeVar("S", bound=msgspec.Struct)

_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number with a fraction",
    "int": "a whole number",
    "null": "nothing",
    "object": "a mapping",
    "str": "a string",
}
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`")
_EXPECTED = re.compile(r"Expected `(?P<want>[^`]+)`(?: (?P<bound>[<>]=?) (?P<limit>-?\d+))?(?:, got `(?P<got>[^`]+)`)?")
_STEP = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d+)\]|(?P<any>\[\.\.\.\])")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong (or, as a warning, surprising) at one place of one object."""

    field: str
    message: str
    warning: bool = False


def decode(spec: dict[str, Any], shape: type[S]) -> S | Finding:
    """Read `spec` as `shape`, or say where it is not of that shape.

    A field that is null counts as absent, as it does for the API server. Only the first misshapen place is told,
    because what follows it cannot be judged.
    """
    try:
        return msgspec.convert(_without_nulls(spec), shape)
    except msgspec.ValidationError as exc:
        return _explain(str(exc), spec, shape)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _explain(text: str, spec: dict[str, Any], shape: type[msgspec.Struct]) -> Finding:
    """The words and `$` path of msgspec, in ours."""
    what, _, where = text.partition(" - at ")
    field, value = _follow(where.rpartition("in ")[2].strip("`") or "$", spec)
    if unknown := _UNKNOWN.match(what):
        name = unknown["name"]
        close = difflib.get_close_matches(name, sorted(_field_names(shape)), n=1)
        remedy = f"did you mean {close[0]}?" if close else "remove it"
        return Finding(f"{field}.{name}", f"there is no field {name}; {remedy}")
    if missing := _MISSING.match(what):
        return Finding(f"{field}.{missing['name']}", "is required; add it")
    expected = _EXPECTED.match(what)
    if expected is None or where.startswith("`key`"):
        return Finding(field, f"{what[0].lower()}{what[1:]}; correct it")
    if expected["bound"]:
        least = "at least" if expected["bound"].startswith(">") else "at most"
        return Finding(field, f"is {value}; must be {least} {expected['limit']}")
    want = _WORDS.get(expected["want"].partition(" | ")[0], expected["want"])
    return Finding(field, f"is {_show(value)}; must be {want}{_hint(expected['want'], value)}")


def _hint(want: str, value: Any) -> str:
    if want == "array":
        return ", with each entry on a line of its own after a dash"
    if want.startswith("str") and isinstance(value, bool | int | float):
        return f': put it in quotes, "{_show(value)}"'
    return ""


def _show(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case int() | float():
            return str(value)
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return "empty"


def _follow(path: str, spec: dict[str, Any]) -> tuple[str, Any]:
    """The place that a path such as `$.addresses[1]` names, in our notation, and the value found there."""
    field, value = "spec", _without_nulls(spec)
    for step in _STEP.finditer(path):
        if step["any"]:  # msgspec does not say which key: it is the first one whose value is no string
            key = next((key for key, item in value.items() if not isinstance(item, str)), "")
            field, value = f"{field}[{key}]", value.get(key)
        elif step["name"]:
            field, value = f"{field}.{step['name']}", value[step["name"]]
        else:
            field, value = f"{field}[{step['index']}]", value[int(step["index"])]
    return field, value


def _field_names(shape: type[msgspec.Struct]) -> Iterator[str]:
    """Every field name of the struct and of the structs inside it."""
    seen: set[type] = set()
    pending: list[inspect.Type] = [inspect.type_info(shape)]
    while pending:
        match pending.pop():
            case inspect.StructType(cls=cls, fields=fields) if cls not in seen:
                seen.add(cls)
                for each in fields:
                    yield each.encode_name
                    pending.append(each.type)
            case inspect.ListType(item_type=item):
                pending.append(item)
            case inspect.UnionType(types=types):
                pending.extend(types)
            case _:
                pass
