"""The `spec` of every metallb.io configuration kind, as it is written in a manifest.

Only shapes, types and numeric ranges live here; what needs a sentence to explain lives beside it, in the modules that
check values. An unknown field is an error: a typo must not become a default. The CRDs in hostagent/manifests describe
the same fields, and a test keeps the two equal.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

ASN = Annotated[int, Meta(ge=1, le=4_294_967_295)]
"""RFC 6793; 0 is reserved (RFC 7607)."""
Milliseconds = Annotated[int, Meta(ge=10, le=60_000)]
"""The range that FRR's bfdd accepts for intervals."""


class _Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class LabelRequirement(_Spec, frozen=True):
    key: str
    operator: str
    values: list[str] = []


class LabelSelector(_Spec, frozen=True):
    match_labels: dict[str, str] = {}
    match_expressions: list[LabelRequirement] = []


class ServiceAllocation(_Spec, frozen=True):
    priority: int = 0
    namespaces: list[str] = []
    namespace_selectors: list[LabelSelector] = []
    service_selectors: list[LabelSelector] = []


class IPAddressPool(_Spec, frozen=True):
    addresses: list[str]
    auto_assign: bool = True
    avoid_buggy_ips: bool = field(default=False, name="avoidBuggyIPs")
    service_allocation: ServiceAllocation | None = None


class PreferredNodes(_Spec, frozen=True):
    weight: Annotated[int, Meta(ge=1, le=100)]
    preference: LabelSelector


class L2Advertisement(_Spec, frozen=True):
    ip_address_pools: list[str] = field(default_factory=list, name="ipAddressPools")
    ip_address_pool_selectors: list[LabelSelector] = field(default_factory=list, name="ipAddressPoolSelectors")
    node_selectors: list[LabelSelector] = []
    service_selectors: list[LabelSelector] = []
    interfaces: list[str] = []
    preferred_node_selectors: list[PreferredNodes] = []


class BGPAdvertisement(_Spec, frozen=True):
    aggregation_length: Annotated[int, Meta(ge=1, le=32)] = 32
    aggregation_length_v6: Annotated[int, Meta(ge=0, le=128)] = field(default=128, name="aggregationLengthV6")
    local_pref: Annotated[int, Meta(ge=0, le=4_294_967_295)] = 0
    communities: list[str] = []
    ip_address_pools: list[str] = field(default_factory=list, name="ipAddressPools")
    ip_address_pool_selectors: list[LabelSelector] = field(default_factory=list, name="ipAddressPoolSelectors")
    node_selectors: list[LabelSelector] = []
    service_selectors: list[LabelSelector] = []
    peers: list[str] = []


class SecretReference(_Spec, frozen=True):
    name: str = ""
    namespace: str = ""


class BGPPeer(_Spec, frozen=True):
    """Both versions: v1beta1 is v1beta2 with fewer fields, so one shape reads either without losing anything."""

    my_asn: ASN = field(name="myASN")
    peer_asn: Annotated[int, Meta(ge=0, le=4_294_967_295)] = field(default=0, name="peerASN")
    """0 is unset, as manifests made by Go programs write it."""
    dynamic_asn: Literal["", "internal", "external"] = field(default="", name="dynamicASN")
    local_asn: Annotated[int, Meta(ge=0, le=4_294_967_295)] = field(default=0, name="localASN")
    peer_address: str = ""
    interface: str = ""
    source_address: str = ""
    peer_port: Annotated[int, Meta(ge=0, le=16_384)] = 179
    """0 is 179: v1beta1 manifests may say so."""
    hold_time: str | None = None
    keepalive_time: str | None = None
    connect_time: str | None = None
    router_id: str = field(default="", name="routerID")
    node_selectors: list[LabelSelector] = []
    password: str = ""
    password_secret: SecretReference | None = None
    bfd_profile: str = ""
    enable_graceful_restart: bool = False
    ebgp_multi_hop: bool = False
    vrf: str = ""
    disable_mp: bool = field(default=False, name="disableMP")
    dual_stack_address_family: bool = False


class BFDProfile(_Spec, frozen=True):
    receive_interval: Milliseconds | None = None
    transmit_interval: Milliseconds | None = None
    detect_multiplier: Annotated[int, Meta(ge=2, le=255)] | None = None
    echo_interval: Milliseconds | None = None
    echo_mode: bool = False
    passive_mode: bool = False
    minimum_ttl: Annotated[int, Meta(ge=1, le=254)] | None = None


class CommunityAlias(_Spec, frozen=True):
    name: str = ""
    value: str = ""


class Community(_Spec, frozen=True):
    communities: list[CommunityAlias] = []


Spec = IPAddressPool | L2Advertisement | BGPAdvertisement | BGPPeer | BFDProfile | Community
