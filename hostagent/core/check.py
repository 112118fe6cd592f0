"""The verdict on a set of manifests, as `hostagent check` gives it: the agent's own rules, object by object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hostagent.core.config.objects import STATUS_KINDS, is_ours
from hostagent.core.config_set import build
from hostagent.model.cluster import Fault, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What there is to say about one object."""

    kind: str
    namespace: str
    name: str
    errors: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()

    @property
    def valid(self) -> bool:
        return not self.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One verdict per object, sorted by kind, namespace and name."""

    verdicts: tuple[Verdict, ...] = ()
    skipped: tuple[str, ...] = ()
    """Objects that are not configuration of ours, as `Deployment default/web`."""

    @property
    def valid(self) -> bool:
        return all(verdict.valid for verdict in self.verdicts)


def check(resources: Iterable[Resource], *, namespace: str) -> Report:
    """Judge the resources as an agent would that starts with nothing but them.

    Objects that are given twice are an error here, though the agent could not see it: a cluster keeps only the last.
    """
    judged: list[Resource] = []
    skipped: list[str] = []
    for resource in resources:
        if is_ours(resource) and resource.kind not in STATUS_KINDS:
            judged.append(resource)
        else:
            name = f" {resource.namespace}/{resource.name}" if resource.name else ""
            skipped.append(resource.kind + name)
    faults = (*build(judged, namespace=namespace).faults, *_given_twice(judged))
    return Report(
        verdicts=tuple(_verdict(key, faults) for key in sorted({resource.key for resource in judged})),
        skipped=tuple(sorted(skipped)),
    )


def _verdict(key: tuple[str, str, str], faults: Iterable[Fault]) -> Verdict:
    kind, namespace, name = key
    its = [fault for fault in faults if (fault.kind, fault.namespace, fault.name) == key]
    return Verdict(
        kind=kind,
        namespace=namespace,
        name=name,
        errors=tuple(fault for fault in its if not fault.warning),
        warnings=tuple(fault for fault in its if fault.warning),
    )


def _given_twice(resources: Iterable[Resource]) -> Iterable[Fault]:
    for (kind, namespace, name), times in Counter(resource.key for resource in resources).items():
        if times > 1:
            message = f'"{name}" is given {times} times, and only the last would remain; remove or rename the others'
            yield Fault(kind=kind, namespace=namespace, name=name, field="metadata.name", message=message)
