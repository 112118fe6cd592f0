"""What becomes of a running cluster's addresses when hostagent takes them over: told before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostagent.core.allocate import Ledger
from hostagent.core.config_set import build
from hostagent.core.reserved import Reserved
from hostagent.model.cluster import ConfigSet, Resource, Service
from hostagent.model.names import IP, Labels, ServiceKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """One Service of ours, as it is and as the allocator would have it."""

    service: ServiceKey
    has: tuple[IP, ...]
    would_have: tuple[IP, ...]
    why: str
    """The allocator's sentence, where it would change or refuse something."""

    @property
    def loses(self) -> bool:
        """It has addresses now that it would not have then."""
        return bool(set(self.has) - set(self.would_have))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Of the whole cluster."""

    services: tuple[Foreseen, ...]
    config: ConfigSet

    @property
    def losers(self) -> tuple[Foreseen, ...]:
        return tuple(each for each in self.services if each.loses)


def foresee(
    services: Iterable[Service],
    resources: Iterable[Resource],
    *,
    namespace: str,
    namespaces: Mapping[str, Labels],
    reserved: Reserved = (),
    load_balancer_class: str | None = None,
) -> Outlook:
    """Let the allocator's own rules decide about every Service, as it would right after it took its seat."""
    config = build(resources, namespace=namespace)
    ledger = Ledger(
        load_balancer_class=load_balancer_class, config=config, namespaces=dict(namespaces), reserved=reserved
    )
    known = sorted(services, key=lambda each: (not each.assigned, each.key))
    for service in known:
        ledger.note(service)  # who has an address keeps it: all of them first
    found = []
    for service in known:
        decision = ledger.decide(service)
        if ledger.ours(service):
            changed = set(decision.addresses) != set(service.addresses)
            why = decision.message if changed or not decision.addresses else ""
            found.append(Foreseen(service=service.key, has=service.addresses, would_have=decision.addresses, why=why))
    return Outlook(services=tuple(sorted(found, key=lambda each: each.service)), config=config)
