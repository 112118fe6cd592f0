"""Manifests as operators write them, good and bad: judged alike by the agent, by `hostagent check` and at admission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAMESPACE = "metallb-system"

GOOD = """
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: production
  namespace: metallb-system
  labels: {tier: gold}
spec:
  addresses:
    - 198.51.100.64/27
    - 198.51.100.100 - 198.51.100.120
    - 2001:db8:51:0:1::/112
    - 2001:db8:51:0:2::10-2001:db8:51:0:2::20
    - 192.0.2.77/24   # the whole of 192.0.2.0/24
  avoidBuggyIPs: true
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: tenant, namespace: metallb-system}
spec:
  addresses: [203.0.113.7/32]
  autoAssign: false
  serviceAllocation:
    priority: 50
    namespaces: [team-a, team-b]
    namespaceSelectors:
      - matchLabels: {team: c}
    serviceSelectors:
      - matchExpressions:
          - {key: app, operator: In, values: [web, mail]}
          - {key: internal, operator: DoesNotExist}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: everything, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: narrow, namespace: metallb-system}
spec:
  ipAddressPools: [production]
  ipAddressPoolSelectors:
    - matchLabels: {tier: gold}
    - matchExpressions: [{key: tier, operator: NotIn, values: [silver]}]
  nodeSelectors:
    - matchLabels: {kubernetes.io/hostname: h1}
    - {}
  serviceSelectors:
    - matchLabels: {public: "yes"}
  interfaces: [eth0, bond0.12]
  preferredNodeSelectors:
    - weight: 100
      preference: {matchLabels: {rack: r1}}
    - weight: 1
      preference: {}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: aggregate, namespace: metallb-system}
spec:
  ipAddressPools: [tenant]
  aggregationLength: 32
  aggregationLengthV6: 124
  localPref: 100
  communities: [65535:65281, large:4200000000:1:2, 100:20, no-advertise]
  peers: [tor]
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: tor, namespace: metallb-system}
spec:
  myASN: 64500
  peerASN: 64501
  peerAddress: 198.51.100.254
  sourceAddress: 198.51.100.11
  peerPort: 1179
  holdTime: 1m30s
  keepaliveTime: 30s
  connectTime: 5s
  routerID: 198.51.100.11
  bfdProfile: fast
  ebgpMultiHop: true
  vrf: red
  passwordSecret: {name: tor-password}
  enableGracefulRestart: true
  dualStackAddressFamily: true
  nodeSelectors:
    - matchExpressions: [{key: rack, operator: Exists}]
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: unnumbered, namespace: metallb-system}
spec: {myASN: 64500, dynamicASN: external, localASN: 64499, interface: eth1, holdTime: 0s}
---
apiVersion: metallb.io/v1beta1
kind: BGPPeer
metadata: {name: old, namespace: metallb-system}
spec:
  myASN: 64500
  peerASN: 64500
  peerAddress: 2001:db8:51::fe
  peerPort: 0
  password: secret
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: fast, namespace: metallb-system}
spec: {receiveInterval: 50, transmitInterval: 60, detectMultiplier: 5, echoMode: true, echoInterval: 40, minimumTtl: 9}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: well-known, namespace: metallb-system}
spec:
  communities:
    - {name: no-advertise, value: 65535:65282}
    - {name: blackhole, value: large:64500:666:0}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """One faulty object, and what must be said about it."""

    kind: str
    spec: dict[str, Any]
    field: str
    says: str
    """Part of the agent's message."""
    admission: str = ""
    """Part of the API server's message; empty where it takes the object and leaves the fault to the agent."""
    version: str = "v1beta1"

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": f"metallb.io/{self.version}",
            "kind": self.kind,
            "metadata": {"name": "faulty", "namespace": NAMESPACE},
            "spec": self.spec,
        }


def _pool(*addresses: Any, **spec: Any) -> dict[str, Any]:
    return {"addresses": list(addresses), **spec}


def _peer(**spec: Any) -> dict[str, Any]:
    return {"myASN": 64500, "peerASN": 64501, "peerAddress": "192.0.2.1"} | spec


_ONE = "203.0.113.0/24"
_VALUES = "In and NotIn need at least one value, Exists and DoesNotExist take none"
_PAIR = {"matchLabels": {"a": "b"}}


def _node(selector: dict[str, Any]) -> dict[str, Any]:
    return {"nodeSelectors": [selector]}


def _expression(**expression: Any) -> dict[str, Any]:
    return _node({"matchExpressions": [expression]})


BAD: dict[str, Bad] = {
    "no addresses": Bad(
        kind="IPAddressPool", spec={}, field="spec.addresses", says="is required", admission="Required value"
    ),
    "empty addresses": Bad(
        kind="IPAddressPool",
        spec=_pool(),
        field="spec.addresses",
        says="is empty; add at least one CIDR",
        admission="should have at least 1 items",
    ),
    "addresses no list": Bad(
        kind="IPAddressPool",
        spec={"addresses": _ONE},
        field="spec.addresses",
        says='is "203.0.113.0/24"; must be a list',
        admission="must be of type array",
    ),
    "bare address": Bad(
        kind="IPAddressPool",
        spec=_pool(_ONE, "192.0.2.1"),
        field="spec.addresses[1]",
        says='"192.0.2.1" has no prefix length; for this one address write 192.0.2.1/32',
        admission="as in 192.0.2.1/32",
    ),
    "bare IPv6 address": Bad(
        kind="IPAddressPool",
        spec=_pool("2001:db8::1"),
        field="spec.addresses[0]",
        says="write 2001:db8::1/128",
        admission="or 2001:db8::1/128",
    ),
    "netmask": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.0/255.255.255.0"),
        field="spec.addresses[0]",
        says="write a number from 0 to 32 after /",
        admission="must be a CIDR",
    ),
    "prefix too long": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.0/33"),
        field="spec.addresses[0]",
        says="write a number from 0 to 32 after /",
        admission="must be a CIDR",
    ),
    "leading zero": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.02.0/24"),
        field="spec.addresses[0]",
        says='"192.0.02.0" is not an IP address',
        admission="must be a CIDR",
    ),
    "zone": Bad(
        kind="IPAddressPool",
        spec=_pool("fe80::1%eth0/128"),
        field="spec.addresses[0]",
        says="has a zone; write it without %eth0",
        admission="must be a CIDR",
    ),
    "IPv4 as IPv6": Bad(
        kind="IPAddressPool",
        spec=_pool("::ffff:192.0.2.1/128"),
        field="spec.addresses[0]",
        says="write 192.0.2.1",
        admission="must be a CIDR",
    ),
    "half a range": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.1-"),
        field="spec.addresses[0]",
        says='"" is not an IP address',
        admission="a range must be two IP addresses",
    ),
    "three ends": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.1-192.0.2.2-192.0.2.3"),
        field="spec.addresses[0]",
        says="is not a range",
        admission="a range must be two IP addresses",
    ),
    "range of CIDRs": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.0/25-192.0.2.128/25"),
        field="spec.addresses[0]",
        says='"192.0.2.0/25" is not an IP address',
        admission="a range must be two IP addresses",
    ),
    "range of two families": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.1-2001:db8::1"),
        field="spec.addresses[0]",
        says="goes from IPv4 to IPv6; write one entry per family",
        admission="must begin and end in the same family",
    ),
    "range backwards": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.20 - 192.0.2.10"),
        field="spec.addresses[0]",
        says="starts after its end; write 192.0.2.10-192.0.2.20",
        admission="a range must not begin after its end",
    ),
    "IPv6 range backwards": Bad(
        kind="IPAddressPool",
        spec=_pool("2001:db8::2-2001:db8::1"),
        field="spec.addresses[0]",
        says="starts after its end; write 2001:db8::1-2001:db8::2",
    ),
    "overlap inside": Bad(
        kind="IPAddressPool",
        spec=_pool("192.0.2.0/25", "192.0.2.100-192.0.2.200"),
        field="spec.addresses[1]",
        says='overlaps "192.0.2.0/25" (spec.addresses[0]) of the same pool',
        admission="has an address in two entries",
    ),
    "unknown field": Bad(
        kind="IPAddressPool",
        spec=_pool(_ONE, autoasign=False),
        field="spec.autoasign",
        says="did you mean autoAssign?",
        admission='unknown field "spec.autoasign"',
    ),
    "unknown field inside": Bad(
        kind="IPAddressPool",
        spec=_pool(_ONE, serviceAllocation={"namespace": ["a"]}),
        field="spec.serviceAllocation.namespace",
        says="did you mean namespaces?",
        admission='unknown field "spec.serviceAllocation.namespace"',
    ),
    "yes is no boolean": Bad(
        kind="IPAddressPool",
        spec=_pool(_ONE, autoAssign="yes"),
        field="spec.autoAssign",
        says='is "yes"; must be true or false',
        admission="must be of type boolean",
    ),
    "namespace twice": Bad(
        kind="IPAddressPool",
        spec=_pool(_ONE, serviceAllocation={"namespaces": ["a", "b", "a"]}),
        field="spec.serviceAllocation.namespaces[2]",
        says='"a" is there already',
        admission="must not name a namespace twice",
    ),
    "selector twice": Bad(
        kind="IPAddressPool",
        spec=_pool(_ONE, serviceAllocation={"serviceSelectors": [_PAIR, {}, _PAIR]}),
        field="spec.serviceAllocation.serviceSelectors[2]",
        says="selects the same as spec.serviceAllocation.serviceSelectors[0]",
        admission="must not have a selector twice in one list",
    ),
    "pool twice": Bad(
        kind="L2Advertisement",
        spec={"ipAddressPools": ["a", "a"]},
        field="spec.ipAddressPools[1]",
        says='"a" is there already',
        admission="must not name a pool twice",
    ),
    "operator": Bad(
        kind="L2Advertisement",
        spec=_expression(key="a", operator="Is", values=["b"]),
        field="spec.nodeSelectors[0].matchExpressions[0].operator",
        says='"Is" is not an operator; write one of In, NotIn, Exists, DoesNotExist',
        admission='supported values: "In", "NotIn", "Exists", "DoesNotExist"',
    ),
    "In without values": Bad(
        kind="L2Advertisement",
        spec=_expression(key="a", operator="In"),
        field="spec.nodeSelectors[0].matchExpressions[0].values",
        says="In needs at least one value",
        admission=_VALUES,
    ),
    "Exists with values": Bad(
        kind="L2Advertisement",
        spec=_expression(key="a", operator="Exists", values=["b"]),
        field="spec.nodeSelectors[0].matchExpressions[0].values",
        says="Exists takes no values",
        admission=_VALUES,
    ),
    "value twice": Bad(
        kind="L2Advertisement",
        spec=_expression(key="a", operator="In", values=["b", "b"]),
        field="spec.nodeSelectors[0].matchExpressions[0].values[1]",
        says='"b" is there already',
        admission="must not have a value twice in one expression",
    ),
    "expression twice": Bad(
        kind="L2Advertisement",
        spec=_node(
            {
                "matchExpressions": [
                    {"key": "a", "operator": "In", "values": ["b", "c"]},
                    {"key": "a", "operator": "In", "values": ["c", "b"]},
                ]
            }
        ),
        field="spec.nodeSelectors[0].matchExpressions[1]",
        says="says the same as spec.nodeSelectors[0].matchExpressions[0]",
        admission="must not have an expression twice in one selector",
    ),
    "label key": Bad(
        kind="L2Advertisement",
        spec=_expression(key="a b", operator="Exists"),
        field="spec.nodeSelectors[0].matchExpressions[0].key",
        says='"a b" is not a label key',
        admission="has a selector whose key can be none of a label",
    ),
    "label value": Bad(
        kind="L2Advertisement",
        spec=_node({"matchLabels": {"a": "b c"}}),
        field="spec.nodeSelectors[0].matchLabels[a]",
        says='"b c" is not a label value',
        admission="has a selector whose value can be none of a label",
    ),
    "label value no string": Bad(
        kind="L2Advertisement",
        spec=_node({"matchLabels": {"a": "b", "c": 1}}),
        field="spec.nodeSelectors[0].matchLabels[c]",
        says='must be a string: put it in quotes, "1"',
        admission="must be of type string",
    ),
    "weight 0": Bad(
        kind="L2Advertisement",
        spec={"preferredNodeSelectors": [{"weight": 0, "preference": {}}]},
        field="spec.preferredNodeSelectors[0].weight",
        says="is 0; must be at least 1",
        admission="greater than or equal to 1",
    ),
    "weight 101": Bad(
        kind="L2Advertisement",
        spec={"preferredNodeSelectors": [{"weight": 101, "preference": {}}]},
        field="spec.preferredNodeSelectors[0].weight",
        says="is 101; must be at most 100",
        admission="less than or equal to 100",
    ),
    "weight of nothing": Bad(
        kind="L2Advertisement",
        spec={"preferredNodeSelectors": [{"weight": 1}]},
        field="spec.preferredNodeSelectors[0].preference",
        says="is required",
        admission="Required value",
    ),
    "aggregate of selected Services": Bad(
        kind="BGPAdvertisement",
        spec={"aggregationLength": 24, "serviceSelectors": [_PAIR]},
        field="spec.serviceSelectors",
        says="cannot be combined with aggregationLength",
        admission="cannot be combined with aggregationLength",
    ),
    "aggregation length": Bad(
        kind="BGPAdvertisement",
        spec={"aggregationLength": 33},
        field="spec.aggregationLength",
        says="is 33; must be at most 32",
        admission="less than or equal to 32",
    ),
    "community": Bad(
        kind="BGPAdvertisement",
        spec={"communities": ["65536:1"]},
        field="spec.communities[0]",
        says='"65536:1" is not a community; write 65000:100',
        admission="must be two numbers up to 65535",
    ),
    "large community": Bad(
        kind="BGPAdvertisement",
        spec={"communities": ["large:4294967296:1:1"]},
        field="spec.communities[0]",
        says="three numbers up to 4294967295",
        admission="large: with three numbers up to 4294967295",
    ),
    "community twice": Bad(
        kind="BGPAdvertisement",
        spec={"communities": ["1:1", "1:1"]},
        field="spec.communities[1]",
        says='"1:1" is there already',
        admission="must not name a community twice",
    ),
    "peer twice": Bad(
        kind="BGPAdvertisement",
        spec={"peers": ["a", "a"]},
        field="spec.peers[1]",
        says='"a" is there already',
        admission="must not name a peer twice",
    ),
    "myASN 0": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(myASN=0),
        field="spec.myASN",
        says="is 0; must be at least 1",
        admission="greater than or equal to 1",
    ),
    "no ASN": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(peerASN=0),
        field="spec.peerASN",
        says="give exactly one of peerASN and dynamicASN",
        admission="give exactly one of peerASN and dynamicASN",
    ),
    "two ASNs": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(dynamicASN="external"),
        field="spec.peerASN",
        says="is 64501 and dynamicASN is external; give exactly one",
        admission="give exactly one of peerASN and dynamicASN",
    ),
    "no remote": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec={"myASN": 64500, "peerASN": 64501},
        field="spec.peerAddress",
        says="give exactly one of peerAddress and interface",
        admission="give exactly one of peerAddress and interface",
    ),
    "two remotes": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(interface="eth0"),
        field="spec.peerAddress",
        says='is "192.0.2.1" and interface is "eth0"',
        admission="give exactly one of peerAddress and interface",
    ),
    "peer by name": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(peerAddress="tor.example"),
        field="spec.peerAddress",
        says='"tor.example" is not an IP address',
        admission="must be an IP address",
    ),
    "source by name": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(sourceAddress="me"),
        field="spec.sourceAddress",
        says='"me" is not an IP address',
        admission="must be an IP address",
    ),
    "IPv6 router ID": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(routerID="2001:db8::1"),
        field="spec.routerID",
        says="written as an IPv4 address",
        admission="must be written as an IPv4 address",
    ),
    "peer port": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(peerPort=16385),
        field="spec.peerPort",
        says="is 16385; must be at most 16384",
        admission="less than or equal to 16384",
    ),
    "hold time too short": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(holdTime="2s"),
        field="spec.holdTime",
        says="write 0s, or from 3s to 65535s",
        admission="must be 0s, or from 3s to 65535s",
    ),
    "hold time without unit": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(holdTime="90"),
        field="spec.holdTime",
        says="write a number with its unit, such as 90s",
        admission="spec.holdTime in body should match",
    ),
    "keepalive too long": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(holdTime="9s", keepaliveTime="10s"),
        field="spec.keepaliveTime",
        says='"10s" is longer than holdTime "9s"',
        admission="keepaliveTime must not be longer than holdTime",
    ),
    "connect time not whole": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(connectTime="1500ms"),
        field="spec.connectTime",
        says="must be whole seconds",
        admission="must be whole seconds, from 1s to 65535s",
    ),
    "connect time too long": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(connectTime="65536s"),
        field="spec.connectTime",
        says="from 1s to 65535s",
        admission="must be whole seconds, from 1s to 65535s",
    ),
    "multi-hop in our AS": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(peerASN=64500, ebgpMultiHop=True),
        field="spec.ebgpMultiHop",
        says="only for peers in another AS",
        admission="only for peers in another AS",
    ),
    "two passwords": Bad(
        kind="BGPPeer",
        version="v1beta2",
        spec=_peer(password="p", passwordSecret={"name": "s"}),
        field="spec.password",
        says="and so is passwordSecret.name",
        admission="give password or passwordSecret, not both",
    ),
    "old version, two remotes": Bad(
        kind="BGPPeer",
        spec=_peer(interface="eth0"),
        field="spec.peerAddress",
        says="give exactly one",
        admission="give exactly one of peerAddress and interface",
    ),
    "BFD interval": Bad(
        kind="BFDProfile",
        spec={"receiveInterval": 9},
        field="spec.receiveInterval",
        says="is 9; must be at least 10",
        admission="greater than or equal to 10",
    ),
    "BFD multiplier": Bad(
        kind="BFDProfile",
        spec={"detectMultiplier": 1},
        field="spec.detectMultiplier",
        says="is 1; must be at least 2",
        admission="greater than or equal to 2",
    ),
    "alias value": Bad(
        kind="Community",
        spec={"communities": [{"name": "a", "value": "no-export"}]},
        field="spec.communities[0].value",
        says='"no-export" is not a community',
        admission="must be two numbers up to 65535",
    ),
    "alias name empty": Bad(
        kind="Community",
        spec={"communities": [{"name": "", "value": "1:1"}]},
        field="spec.communities[0].name",
        says="is empty",
        admission="should be at least 1 chars long",
    ),
    "alias twice": Bad(
        kind="Community",
        spec={"communities": [{"name": "a", "value": "1:1"}, {"name": "a", "value": "1:2"}]},
        field="spec.communities[1].name",
        says="already the name of spec.communities[0]",
        admission="must not give a name twice",
    ),
}
