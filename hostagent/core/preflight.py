"""Whether a cluster and its hosts are fit for a rollout, before anything is touched."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from hostagent.core.config.values import parse_range
from hostagent.model.cluster import AddressRange
from hostagent.model.names import IP
from hostagent.model.preflight import ClusterFacts, Finding, HostFacts, Severity

OLDEST = (1, 31)
"""The kinds' rules use CEL's functions for IP addresses; admission policies are older (1.30)."""


def examine(cluster: ClusterFacts, hosts: Sequence[HostFacts]) -> list[Finding]:
    """Everything that is not as it should be, the cluster's own first. Empty: nothing stands in the way."""
    found = [*_cluster(cluster), *_names(hosts)]
    for host in hosts:
        found += _host(cluster, host)
    return found


def _cluster(cluster: ClusterFacts) -> Iterator[Finding]:
    numbers = re.match(r"v?(\d+)\.(\d+)", cluster.version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        yield Finding(
            check="kubernetes-version",
            severity=Severity.ERROR,
            says=f"the API server is {cluster.version}, and hostagent needs {OLDEST[0]}.{OLDEST[1]}",
            remedy="upgrade the cluster first",
        )
    if cluster.rights_missing:
        yield Finding(
            check="admin-rights",
            severity=Severity.ERROR,
            says=f"the admin's kubeconfig may not {'; '.join(cluster.rights_missing)}",
            remedy="use a cluster admin's, hostagent_access_admin_kubeconfig",
        )
    if cluster.metallb:
        yield Finding(
            check="metallb",
            severity=Severity.WARNING,
            says=f"MetalLB runs ({', '.join(cluster.metallb[:3])}): both would give and answer for the same addresses",
            remedy="stop it first (docs/install.md, Coming from MetalLB), or set hostagent_load_balancer_class",
        )
    if cluster.kube_proxy and cluster.kube_proxy.mode == "ipvs" and not cluster.kube_proxy.strict_arp:
        yield Finding(
            check="strict-arp",
            severity=Severity.WARNING,
            says="kube-proxy runs in IPVS mode without strictARP: every host would answer for every VIP",
            remedy=(
                "set ipvs.strictARP: true in ConfigMap kube-system/kube-proxy and restart kube-proxy; "
                "hostagent_sysctls sets the same on the hosts, unless you changed it"
            ),
        )


def _names(hosts: Sequence[HostFacts]) -> Iterator[Finding]:
    for node, times in Counter(host.node for host in hosts).items():
        if times > 1:
            yield Finding(
                check="node-name",
                severity=Severity.ERROR,
                says=f"{times} hosts of the inventory call themselves {node}",
                remedy="give each its own hostagent_node_name",
                host=node,
            )


def _host(cluster: ClusterFacts, host: HostFacts) -> Iterator[Finding]:
    if host.node not in cluster.nodes:
        there = ", ".join(sorted(cluster.nodes)[:10]) or "none"
        yield Finding(
            check="node-name",
            severity=Severity.ERROR,
            says=f"no Node is called {host.node}; there are: {there}",
            remedy="set hostagent_node_name as `kubectl get nodes` has it",
            host=host.node,
        )
    else:
        internal = cluster.nodes[host.node]
        if internal and not set(internal) & set(host.addresses):
            yield Finding(
                check="node-address",
                severity=Severity.ERROR,
                says=f"Node {host.node} is at {_all(internal)}, and this host has {_all(host.addresses)}",
                remedy="hostagent_node_name names another machine's Node: correct it, or the inventory",
                host=host.node,
            )
    for name, texts in sorted(cluster.pools.items()):
        ranges = list(_ranges(texts))
        own = [ip for ip in host.addresses if ip not in host.passing]
        for what, ips in (("an address", own), ("the gateway", host.gateways)):
            taken = [ip for ip in ips if any(ip in each for each in ranges)]
            if taken:
                yield Finding(
                    check="address-overlap",
                    severity=Severity.ERROR,
                    says=f"pool {name} holds {_all(taken)}, {what} of {host.node}",
                    remedy="take it out of the pool's addresses",
                    host=host.node,
                )


def _ranges(texts: Sequence[str]) -> Iterator[AddressRange]:
    for text in texts:
        with suppress(ValueError):  # `hostagent check` and the agents tell what is wrong with it
            yield parse_range(text)


def _all(ips: Sequence[IP]) -> str:
    return ", ".join(map(str, ips)) or "none"
