"""Services for trials: as many VIPs as a fault wants, all held by one host when it begins."""

from __future__ import annotations

from dataclasses import dataclass

from tests.fabric.admin import wait_for
from tests.fabric.backends import endpoint_slices, service
from tests.fabric.hosts import Host
from tests.fabric.lab import Lab
from tests.fault.scene import Scene, claim_name, wait_settled
from tests.system.cluster import Cluster

# What is free on the segment; 198.51.100.200 is the client, .201 asks on behalf of the listener, .254 the router.
_ON_SEGMENT = ("198.51.100.20-198.51.100.199", "198.51.100.202-198.51.100.253", "2001:db8:51:0:1::/112")
_ON_SEGMENT_V4 = 180 + 52
# Too many for it: addresses of a network that only the VIPs are in, which clients reach by a route.
_OFF_SEGMENT = "198.18.0.0/16"
_MANY_WITHIN_S = 180.0


@dataclass(kw_only=True)
class Stage:
    """One lab's Services for one trial after another. Cheap to ask again for as many VIPs as last time."""

    lab: Lab
    _cluster: Cluster | None = None
    _vips: tuple[str, ...] = ()

    def scene(self, vips: int) -> Scene:
        """So many VIPs on one host, and nothing left of the last trial."""
        if self._cluster is None or len(self._vips) != vips:
            self.clear()
            self._fill(vips)
        self._gather()
        return Scene.of(self._of(), self._vips)

    def clear(self) -> None:
        """No Service, no configuration, all agents run."""
        if self._cluster is None:
            return
        cluster, self._cluster, self._vips = self._cluster, None, ()
        self.lab.segment.set_faults()
        cluster.end()

    def repair(self) -> None:
        """After a trial that failed half-way: no fault is in force any more, whatever it was."""
        plane = self.lab.control_plane
        plane.resume()
        plane.start()
        plane.unslow()
        self.lab.segment.set_faults()
        for host in self.lab.hosts.values():
            for address in host.addresses:
                plane.restore(address)
            if host.hung:
                host.thaw()
            host.power_off()  # whatever was done to its interfaces, units, clock is gone with that
        for host in self.lab.hosts.values():
            host.boot()
        Cluster(lab=self.lab, namespace="").everybody_runs()

    def _of(self) -> Cluster:
        assert self._cluster is not None, "no scene was asked for yet"
        return self._cluster

    def _fill(self, vips: int) -> None:
        self._cluster = cluster = Cluster(lab=self.lab, namespace=f"fault-{vips}")
        cluster.begin()
        off_segment = vips > _ON_SEGMENT_V4
        cluster.pool(*([_OFF_SEGMENT] if off_segment else _ON_SEGMENT), avoidBuggyIPs=True)
        cluster.advertise("pool")
        if off_segment:
            self.lab.client.run(["ip", "route", "replace", _OFF_SEGMENT, "dev", "eth0"])
        if vips == 2:
            cluster.serve("web", families=["IPv4", "IPv6"])
        else:
            services = [service(f"web-{number}", namespace=cluster.namespace) for number in range(vips)]
            behind = list(self.lab.hosts.values())[:1]  # a Service without endpoints is answered by nobody
            slices = [each for one in services for each in endpoint_slices(one, behind)]
            self.lab.control_plane.apply([*services, *slices])
        self._vips = wait_for(
            lambda: self._given(vips), _MANY_WITHIN_S, lambda: f"{vips} VIPs; there are {len(self._given(0))}"
        )

    def _given(self, count: int) -> tuple[str, ...]:
        """The addresses of all Services, IPv4 first; none while there are fewer than `count`."""
        listed = self.lab.control_plane.admin.list_all("services", self._of().namespace)
        ingresses = [each.get("status", {}).get("loadBalancer", {}).get("ingress") or [] for each in listed]
        found = sorted((entry["ip"] for ingress in ingresses for entry in ingress), key=lambda vip: (":" in vip, vip))
        return tuple(found) if len(found) >= count else ()

    def _gather(self) -> None:
        """One host holds all: the one that holds the first, or another if it cannot. An advertisement for that host
        alone brings them there, and one for all lets them stay."""
        cluster, first = self._of(), claim_name(self._vips[0])
        holder = str(cluster.until(lambda: cluster.claims().get(first), "a holder of the first VIP", _MANY_WITHIN_S))
        if not self._all_on(self.lab.host(holder)):
            cluster.advertise("pool", nodeSelectors=[{"matchLabels": {"kubernetes.io/hostname": holder}}])
            cluster.until(lambda: self._all_on(self.lab.host(holder)), f"all VIPs on {holder}", _MANY_WITHIN_S)
            cluster.advertise("pool")
        wait_settled(Scene.of(cluster, self._vips))

    def _all_on(self, host: Host) -> bool:
        claims = self._of().claims()
        have = host.kernel_addresses()
        return all(claims.get(claim_name(vip)) == host.name and vip in have for vip in self._vips)
