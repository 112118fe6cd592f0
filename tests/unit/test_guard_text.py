from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.edges.nft import ruleset
from hostagent.model.cluster import Port

GOLDEN = Path(__file__).parent / "golden"
V4, V6 = ip_address("198.51.100.7"), ip_address("2001:db8::7")
HTTP, DNS = Port("tcp", 80), Port("udp", 53)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("guard_empty", {}), ("guard_two", {V4: frozenset({HTTP, DNS}), V6: frozenset({HTTP})})],
)
def test_the_whole_table(name: str, wanted: ruleset.Wanted) -> None:
    assert ruleset.rebuild_text(wanted) == (GOLDEN / f"{name}.nft").read_text()


def test_only_what_differs_is_written() -> None:
    before = {V4: frozenset({HTTP}), V6: frozenset({HTTP})}
    after = {V4: frozenset({DNS}), ip_address("198.51.100.8"): frozenset({HTTP})}
    assert ruleset.update_text(before, after).splitlines() == [
        "add element inet hostagent vips4 { 198.51.100.8 }",
        "delete element inet hostagent vips6 { 2001:db8::7 }",
        "delete element inet hostagent services4 { 198.51.100.7 . tcp . 80 }",
        "add element inet hostagent services4 { 198.51.100.7 . udp . 53, 198.51.100.8 . tcp . 80 }",
        "delete element inet hostagent services6 { 2001:db8::7 . tcp . 80 }",
    ]


def test_prefixes_within_others_are_written_once() -> None:
    prefixes = map(ip_network, ["198.51.100.0/24", "198.51.100.7/32", "203.0.113.0/32", "2001:db8::/64"])

    text = ruleset.update_text({}, {}, routed=ruleset.disjoint(prefixes))

    assert text.splitlines() == [
        "add element inet hostagent routed4 { 198.51.100.0/24, 203.0.113.0/32 }",
        "add element inet hostagent routed6 { 2001:db8::/64 }",
    ]


ports = st.builds(Port, st.sampled_from(["tcp", "udp", "sctp"]), st.integers(1, 65535))
wanteds = st.dictionaries(st.ip_addresses(), st.frozensets(ports, max_size=4), max_size=5)


@given(wanteds)
def test_nothing_is_written_when_nothing_differs(wanted: ruleset.Wanted) -> None:
    assert ruleset.update_text(wanted, dict(wanted)) == ""


def listing(*objects: dict[str, object]) -> bytes:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]}).encode()


def a_set(name: str, *elements: object, handle: int = 1) -> dict[str, object]:
    return {"set": {"name": name, "handle": handle, "elem": list(elements)}}


def test_a_listing_is_read_back() -> None:
    listed = ruleset.parse_listing(
        listing(
            {"counter": {"name": "refused", "handle": 2, "packets": 5, "bytes": 300}},
            a_set("vips4", "198.51.100.7"),
            a_set("vips6", "2001:db8::7"),
            a_set("services4", {"concat": ["198.51.100.7", "tcp", 80]}, {"concat": ["198.51.100.7", "udp", 53]}),
        )
    )
    assert listed.wanted == {V4: frozenset({HTTP, DNS}), V6: frozenset()}
    assert listed.refused == 5
    assert not listed.stray


def test_the_shape_is_rules_and_not_handles_elements_or_counts() -> None:
    def shape(handle: int, packets: int, verdict: str, *elements: object) -> bytes:
        return ruleset.parse_listing(
            listing(
                {"counter": {"name": "refused", "handle": handle, "packets": packets, "bytes": packets}},
                a_set("vips4", *elements, handle=handle),
                {"rule": {"chain": "vip4", "handle": handle, "expr": [{verdict: None}]}},
            )
        ).shape

    assert shape(1, 0, "drop") == shape(2, 9, "drop", "198.51.100.7")
    assert shape(1, 0, "drop") != shape(1, 0, "accept")


@pytest.mark.parametrize(
    "element", [{"prefix": {"addr": "198.51.100.0", "len": 24}}, {"concat": ["198.51.100.9", "tcp", 22]}]
)
def test_elements_that_we_never_write_are_strays(element: object) -> None:
    assert ruleset.parse_listing(listing(a_set("services4", element))).stray


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"nftables": [1]}', b'{"nftables": [{"set": 1}]}'])
def test_no_listing_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a listing"):
        ruleset.parse_listing(text)
