"""YAML as kubectl reads it, into resources."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from hostagent.model.cluster import Resource


class ManifestError(Exception):
    """This text is no manifest: tells the source, the line or the document, and what to do."""


def read_resources(text: str, *, source: str, namespace: str) -> Iterator[Resource]:
    """Yield the objects of a text of one or more YAML documents; a List gives its items.

    `namespace` is for those that name none, as with `kubectl --namespace`. Raises ManifestError, naming `source`.
    """
    for where, document in read_documents(text, source=source):
        if document["apiVersion"].startswith("metallb.io/"):
            yield to_resource(document, where, namespace)
        else:
            yield _foreign(document, where, namespace)


def read_documents(text: str, *, source: str) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield where each object of a text is, and the object; a List gives its items. Raises ManifestError."""
    try:
        documents = list(yaml.load_all(text, Loader=_KubectlLoader))
    except yaml.MarkedYAMLError as exc:
        where = f":{exc.problem_mark.line + 1}:{exc.problem_mark.column + 1}" if exc.problem_mark else ""
        raise ManifestError(f"{source}{where}: {exc.problem}; correct the YAML") from exc
    except yaml.YAMLError as exc:
        raise ManifestError(f"{source}: {exc}; correct the YAML") from exc
    for number, document in enumerate(documents, start=1):
        if document is not None:
            yield from _objects(document, f"{source}: document {number}")


def _objects(document: Any, where: str) -> Iterator[tuple[str, dict[Any, Any]]]:
    if not isinstance(document, dict):
        raise ManifestError(f"{where}: is not a mapping; a manifest starts with apiVersion and kind")
    kind, items = document.get("kind"), document.get("items")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list):
        for index, item in enumerate(items):
            yield from _objects(item, f"{where}: items[{index}]")
        return
    _text(document, "apiVersion", where)
    _text(document, "kind", where)
    yield where, document


def to_resource(document: dict[Any, Any], where: str, namespace: str) -> Resource:
    """An object of ours, to be judged by the core; `namespace` if it names none. Raises ManifestError."""
    metadata = _mapping(document, "metadata", where)
    return Resource(
        api_version=_text(document, "apiVersion", where),
        kind=_text(document, "kind", where),
        namespace=str(metadata.get("namespace") or namespace),
        name=_text(metadata, "name", f"{where}: metadata"),
        labels=_strings(metadata, "labels", where),
        annotations=_strings(metadata, "annotations", where),
        spec={} if document.get("spec") is None else document["spec"],  # whatever it is, checking tells what it must be
    )


def _foreign(document: dict[Any, Any], where: str, namespace: str) -> Resource:
    """An object that we only pass over needs no more than to be recognised: some have no metadata at all."""
    metadata = document.get("metadata")
    names = metadata if isinstance(metadata, dict) else {}
    return Resource(
        api_version=document["apiVersion"],
        kind=_text(document, "kind", where),
        namespace=str(names.get("namespace") or namespace),
        name=str(names.get("name") or ""),
    )


def _text(mapping: dict[Any, Any], key: str, where: str) -> str:
    value = mapping.get(key)
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{where}: {key} is missing or no string; write it")
    return value


def _mapping(document: dict[Any, Any], key: str, where: str) -> dict[Any, Any]:
    value = document.get(key)
    if not isinstance(value, dict | None):
        raise ManifestError(f"{where}: {key} is not a mapping; correct it")
    return value or {}


def _strings(metadata: dict[Any, Any], key: str, where: str) -> dict[str, str]:
    values = _mapping(metadata, key, f"{where}: metadata")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ManifestError(f'{where}: metadata.{key}.{name} is {value}, no string; put it in quotes, "{value}"')
    return values


class _KubectlLoader(yaml.SafeLoader):
    """Plain values mean what they mean to kubectl: `100:20` is a string there, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_KEPT = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
_KubectlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# PyYAML follows YAML 1.1, in which `100:20` is a number to base 60 and `2001-01-01` a date; Go's parser does neither.
for _tag, _pattern in (
    ("tag:yaml.org,2002:int", r"[-+]?(?:0[0-7]*|[1-9][0-9]*|0x[0-9a-fA-F]+)"),
    ("tag:yaml.org,2002:float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"),
):
    _KubectlLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))
