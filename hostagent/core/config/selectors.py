"""Label selectors: apimachinery's rules for keys, operators and values, and no duplicates in a list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hostagent.core.config import schema
from hostagent.core.config.decode import Finding
from hostagent.model.cluster import Expression, Selector

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WITH_VALUES = ("In", "NotIn")
_OPERATORS = (*_WITH_VALUES, "Exists", "DoesNotExist")


def to_selector(selector: schema.LabelSelector) -> Selector:
    """The selector in normal form: equal ones compare equal, however they were written."""
    labels = [Expression(key, "In", frozenset({value})) for key, value in selector.match_labels.items()]
    expressions = [Expression(e.key, e.operator, frozenset(e.values)) for e in selector.match_expressions]
    return Selector(tuple(sorted({*labels, *expressions}, key=lambda e: (e.key, e.operator, sorted(e.values)))))


def to_selectors(selectors: Sequence[schema.LabelSelector]) -> tuple[Selector, ...]:
    return tuple(map(to_selector, selectors))


def check_selectors(selectors: Sequence[schema.LabelSelector], field: str) -> Iterator[Finding]:
    """Check each selector, and that none is there twice: the second would be a copy-and-paste mistake."""
    normal = to_selectors(selectors)
    for index, selector in enumerate(selectors):
        yield from check_selector(selector, f"{field}[{index}]")
        if (first := normal.index(normal[index])) < index:
            yield Finding(f"{field}[{index}]", f"selects the same as {field}[{first}]; remove one of them")


def check_selector(selector: schema.LabelSelector, field: str) -> Iterator[Finding]:
    for key, value in selector.match_labels.items():
        place = f"{field}.matchLabels[{key}]"
        yield from _check_key(key, place)
        yield from _check_value(value, place)
    seen: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for index, expression in enumerate(selector.match_expressions):
        place = f"{field}.matchExpressions[{index}]"
        yield from _check_expression(expression, place)
        first = seen.setdefault((expression.key, expression.operator, tuple(sorted(expression.values))), index)
        if first < index:
            yield Finding(place, f"says the same as {field}.matchExpressions[{first}]; remove one of them")


def _check_expression(expression: schema.LabelRequirement, field: str) -> Iterator[Finding]:
    yield from _check_key(expression.key, f"{field}.key")
    operator, values = expression.operator, expression.values
    if operator not in _OPERATORS:
        yield Finding(f"{field}.operator", f'"{operator}" is not an operator; write one of {", ".join(_OPERATORS)}')
    elif operator in _WITH_VALUES and not values:
        yield Finding(f"{field}.values", f"{operator} needs at least one value; add it, or write Exists")
    elif operator not in _WITH_VALUES and values:
        yield Finding(f"{field}.values", f"{operator} takes no values; remove them, or write In")
    for index, value in enumerate(values):
        yield from _check_value(value, f"{field}.values[{index}]")
        if (first := values.index(value)) < index:
            place = f"{field}.values"
            yield Finding(f"{place}[{index}]", f'"{value}" is there already, as {place}[{first}]; remove one of them')


def _check_key(key: str, field: str) -> Iterator[Finding]:
    prefix, slash, name = key.rpartition("/")
    good_prefix = not slash or (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix))
    if not good_prefix or not _NAME.fullmatch(name):
        yield Finding(
            field,
            f'"{key}" is not a label key; write a name of at most 63 letters, digits, "-", "_" and ".", '
            "if need be after a DNS name and one /",
        )


def _check_value(value: str, field: str) -> Iterator[Finding]:
    if value and not _NAME.fullmatch(value):
        yield Finding(
            field,
            f'"{value}" is not a label value; write at most 63 letters, digits, "-", "_" and ".", '
            "with a letter or digit at both ends",
        )
