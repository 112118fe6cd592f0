"""Leases to and from sessions and claims; delays; differences."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.edges.kube.access import differences
from hostagent.edges.kube.informer import LONGEST_DELAY_S, delay_s
from hostagent.edges.kube.lease_objects import (
    Lease,
    claim_name,
    claim_object,
    session_object,
    suspicion_patch,
    to_claim,
    to_lease,
    to_segments,
    to_session,
    vip_of,
)
from hostagent.edges.kube.transport import retry_after_s
from hostagent.model.names import IP, Instant, InterfaceName, Mac, NodeName
from hostagent.model.ownership import Segment, Session

NOW = Instant(100.0)
SEGMENT = Segment(
    interface=InterfaceName("eth0"),
    mac=Mac("02:00:00:00:00:01"),
    subnets=(ip_interface("198.51.100.11/24"), ip_interface("2001:db8:51::11/64")),
)
SESSION = Session(
    node=NodeName("h1.example.com"),
    instance="boot-1",
    resource_version="7",
    renewed="t",
    seen_at=NOW,
    duration_s=15.0,
    version="1.2.3",
    segments=(SEGMENT,),
    allocator=False,
)


def test_claim_names() -> None:
    assert claim_name(IPv4Address("198.51.100.7")) == "vip.198.51.100.7"
    assert claim_name(IPv6Address("2001:db8::7")) == "vip.2001-0db8-0000-0000-0000-0000-0000-0007"


@given(st.ip_addresses())
def test_a_claim_name_leads_back_to_its_vip(vip: IP) -> None:
    assert vip_of(claim_name(vip)) == vip


@pytest.mark.parametrize("name", ["allocator", "host.h1", "vip.", "vip.x", "vip.2001-db8--7", "198.51.100.7"])
def test_other_names_are_no_claims(name: str) -> None:
    assert vip_of(name) is None


@pytest.mark.parametrize("session", [SESSION, replace(SESSION, segments=(), allocator=True, draining=True)])
def test_a_session_survives_the_round_trip(session: Session) -> None:
    lease = to_lease(json.dumps(session_object(session, writer="w", renew_time="t")).encode())
    assert lease.name == "host.h1.example.com"
    assert lease.holder == "h1.example.com/boot-1"
    assert to_session(lease, seen_at=NOW) == session


def test_an_ended_session_names_no_holder() -> None:
    made = session_object(replace(SESSION, instance=""), writer="w", renew_time="t")
    assert "holderIdentity" not in made["spec"]
    back = to_session(to_lease(json.dumps(made).encode()), seen_at=NOW)
    assert back.ended
    assert back.node == SESSION.node


def test_a_rivals_note_is_read_and_never_written_by_the_host_itself() -> None:
    made = session_object(replace(SESSION, suspected_by=NodeName("h2")), writer="w", renew_time="t")
    assert to_session(to_lease(json.dumps(made).encode()), seen_at=NOW) == SESSION
    patch = suspicion_patch(NodeName("h2"), expected_version="7")
    assert patch == {"metadata": {"resourceVersion": "7", "annotations": {"hostagent.io/suspected-by": "h2"}}}
    made["metadata"]["annotations"] |= patch["metadata"]["annotations"]
    noted = to_session(to_lease(json.dumps(made).encode()), seen_at=NOW)
    assert noted == replace(SESSION, suspected_by=NodeName("h2"))


def test_a_duration_is_never_rounded_down() -> None:
    made = session_object(replace(SESSION, duration_s=1.2), writer="w", renew_time="t")
    assert made["spec"]["leaseDurationSeconds"] == 2


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", '[{"interface":"e","mac":"m","subnets":["x"]}]'])
def test_a_sign_of_life_stays_one_when_its_segments_cannot_be_read(text: str) -> None:
    assert to_segments(text) == ()


@pytest.mark.parametrize("holder", [NodeName("h1"), None])
@pytest.mark.parametrize("predecessor", [NodeName("h2"), None])
def test_a_claim_survives_the_round_trip(holder: NodeName | None, predecessor: NodeName | None) -> None:
    made = claim_object(
        "vip.198.51.100.7",
        holder=holder,
        predecessor=predecessor,
        expected_version="9",
        transitions=3,
        writer="w",
        notes={"hostagent.io/services": "default/web"},
        acquire_time="t",
    )
    claim = to_claim(to_lease(json.dumps(made).encode()), seen_at=NOW)
    assert (claim.holder, claim.predecessor, claim.transitions) == (holder, predecessor, 3)
    assert claim.resource_version == "9"
    assert made["metadata"]["annotations"]["hostagent.io/services"] == "default/web"


def test_a_lease_without_a_spec_is_a_released_claim() -> None:
    assert to_claim(Lease(name="vip.198.51.100.7", resource_version="1"), seen_at=NOW).holder is None


def test_delays_double_up_to_a_bound_and_are_spread() -> None:
    assert delay_s(0, 0.9) == 0.0
    assert [round(delay_s(n, 1.0), 1) for n in range(1, 8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8.0]
    assert delay_s(3, 0.0) == pytest.approx(0.4)


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_nothing_and_never_too_long(failures: int, chance: float) -> None:
    assert 0.1 <= delay_s(failures, chance) <= LONGEST_DELAY_S


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("soon", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), (" 10 ", 10.0)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


def test_differences_name_the_leaf() -> None:
    before = {"rules": [{"verbs": ["get"]}, {"verbs": ["list"]}], "same": 1, "gone": True}
    after = {"rules": [{"verbs": ["get"]}, {"verbs": ["watch"]}], "same": 1}
    assert differences(before, after) == ["gone: true -> absent", 'rules[1].verbs[0]: "list" -> "watch"']


def test_addresses_of_a_claim_are_canonical() -> None:
    assert claim_name(ip_address("2001:DB8:0::7")) == claim_name(ip_address("2001:db8::7"))
