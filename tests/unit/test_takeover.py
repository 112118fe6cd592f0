"""What a migration foresees: the allocator's own rules on the state that another implementation left."""

from __future__ import annotations

from typing import Any

from hostagent.core.takeover import Outlook, foresee
from hostagent.model.cluster import Resource, Service
from tests.unit.builders import DUAL, REQUIRE, a_service, texts

NAMESPACE = "metallb-system"


def a_pool_object(name: str, *addresses: str, **spec: Any) -> Resource:
    return Resource(
        api_version="metallb.io/v1beta1",
        kind="IPAddressPool",
        namespace=NAMESPACE,
        name=name,
        spec={"addresses": list(addresses), **spec},
    )


POOL = a_pool_object("pool", "198.51.100.64/30", "2001:db8::/126")


def outlook(*services: Service, pools: tuple[Resource, ...] = (POOL,)) -> Outlook:
    return foresee(services, pools, namespace=NAMESPACE, namespaces={"default": {}})


def losers(*services: Service, pools: tuple[Resource, ...] = (POOL,)) -> dict[str, str]:
    return {str(each.service): each.why for each in outlook(*services, pools=pools).losers}


def test_what_is_in_order_is_kept_whoever_gave_it() -> None:
    kept = [
        a_service("a", has=("198.51.100.66",)),
        a_service("b", has=("198.51.100.64", "2001:db8::"), families=DUAL, policy=REQUIRE),
    ]
    assert losers(*kept) == {}
    assert [texts(each.would_have) for each in outlook(*kept).services] == [
        ("198.51.100.66",),
        ("198.51.100.64", "2001:db8::"),
    ]


def test_an_address_in_no_pool_would_be_lost_and_says_why() -> None:
    [(service, why)] = losers(a_service("web", has=("203.0.113.9",))).items()
    assert service == "default/web"
    assert "no pool has 203.0.113.9" in why


def test_a_service_that_waits_today_loses_nothing() -> None:
    full = [a_service(f"s{n}", has=(f"198.51.100.{64 + n}",)) for n in range(4)]
    told = outlook(*full, a_service("late"))
    assert told.losers == ()
    [late] = [each for each in told.services if not each.has]
    assert "no free IPv4 address" in late.why


def test_a_faulty_pool_takes_nothing_from_anybody_and_is_told() -> None:
    broken = a_pool_object("pool", "198.51.100.300/30")
    told = outlook(a_service("web", has=("198.51.100.64",)), pools=(broken,))
    assert told.losers == ()
    assert [fault.name for fault in told.config.faults if not fault.warning] == ["pool"]


def test_services_of_another_class_are_none_of_our_business() -> None:
    assert outlook(a_service("web", has=("203.0.113.9",), load_balancer_class="other")).services == ()
