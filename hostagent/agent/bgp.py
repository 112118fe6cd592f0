"""BGP on this host, as the agent's loop sees it: passwords, the advertiser and its edges, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hostagent.agent.advertiser import Advertiser
from hostagent.agent.announcer import Announcer
from hostagent.agent.clock import now
from hostagent.agent.cluster import Cluster
from hostagent.agent.guarding import Guarding
from hostagent.agent.reports import Reports
from hostagent.agent.secrets import Secrets
from hostagent.core.advertise import Plan
from hostagent.core.status_objects import bgp_status_name, bgp_statuses
from hostagent.edges.frr import FrrRouter, FrrRoutes, frr_present
from hostagent.edges.hostconfig import BgpConfig, HostConfig
from hostagent.edges.kube.events import Events
from hostagent.edges.kube.transport import Api
from hostagent.edges.netlink import KernelRoutes
from hostagent.model.bgp import Peer, Router, Routes, SessionState
from hostagent.model.cluster import Fault, Node
from hostagent.model.names import IP, Instant, InterfaceName, Network, NodeName
from hostagent.telemetry.metrics import BgpSession

MAIN_TABLE = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h."""


class Bgp:
    """Everything of BGP that the loop turns."""

    def __init__(
        self,
        api: Api,
        *,
        me: NodeName,
        config: HostConfig,
        cluster: Cluster,
        events: Events,
        announcer: Announcer,
        guarding: Guarding,
        reports: Reports,
        wake: Callable[[], None],
    ) -> None:
        self._me = me
        self._config = config.bgp
        self._cluster = cluster
        self._announcer = announcer
        self._guarding = guarding
        self._reports = reports
        self._wake = wake
        self._node: Node | None = None
        self._guarded: Mapping[IP, object] | None = None
        self._held: dict[IP, InterfaceName] = {}
        self._plan: Plan | None = None
        self.secrets = Secrets(api, namespace=config.namespace, changed=self._secrets_changed)
        self.advertiser = Advertiser(
            me=me,
            cluster=cluster,
            events=events,
            open_edges=lambda: open_edges(config.bgp),
            table=config.bgp.table,
            graceful_shutdown_s=config.bgp.graceful_shutdown_s,
            guarded=lambda: guarding.guarded,
            off=config.bgp.backend == "off",
        )

    async def prepare(self) -> None:
        """Read the passwords that BGPPeers name, before the first configuration is built."""
        self.secrets.want(self._cluster.secret_names)
        await self.secrets.first()
        self._cluster.secrets = self.secrets.known

    def work(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What goes on beside the loop."""
        yield self.secrets.run()
        yield self.advertiser.run()

    def configured(self) -> None:
        """There is another configuration."""
        self.secrets.want(self._cluster.secret_names)
        self.advertiser.note(set(), everything=True)

    def turn(self, vips: set[IP], *, draining: bool, stopping: bool) -> None:
        """Hand over what the loop noted: VIPs that changed, this host's Node, its addresses, the guard; and whether
        this host is on its way out.
        """
        node, guarded, held = self._cluster.node(self._me), self._guarding.guarded, self._announcer.ownership.held
        self.advertiser.note(vips, everything=node != self._node)
        self._node = node
        if held != self._held:
            self._held = dict(held)
            self.advertiser.nudge()
        if guarded is not self._guarded:
            self._guarded = guarded
            self.advertiser.guard_changed()
        self.advertiser.leave(draining=draining, stopping=stopping)
        if self.advertiser.judged:
            self._tell(self.advertiser.plan)

    def _tell(self, plan: Plan) -> None:
        """The guard, which addresses this host may draw traffic for; people, who hears of which Service."""
        changed, plan.heard_changed = plan.heard_changed, set()
        if plan is not self._plan:
            self._plan = plan
            self._guarding.routed_are(plan.routed if self.advertiser.active else frozenset())
            self._reports.bgp.want(bgp_statuses(self._me, plan.heard_by))
        elif changed:
            heard = {key: peers for key in changed if (peers := plan.hearing(key))}
            gone = dict.fromkeys(bgp_status_name(self._me, key) for key in changed - heard.keys())
            self._reports.bgp.want_also(gone | {each.name: each for each in bgp_statuses(self._me, heard)})

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What only this host can tell of the configuration."""
        return (*self.advertiser.faults, *self.advertiser.plan.contradictions)

    @property
    def problems(self) -> list[str]:
        """What keeps prefixes from routers."""
        advertiser, config = self.advertiser, self._config
        found = [str(fault) for fault in advertiser.faults]
        found += [f"{each.prefix}: BGPAdvertisement {each.advertisement}: {each.message}" for each in self.set_aside]
        if advertiser.trouble:
            found.append(f"BGP: {advertiser.trouble}")
        if not advertiser.active and self._cluster.config.bgp.peers and config.backend != "off":
            found.append(
                f"BGP: FRR does not run on this host (no socket in {config.frr_run_dir}), so nothing is advertised"
            )
        return found

    @property
    def set_aside(self) -> list[Any]:
        return self.advertiser.plan.set_aside

    @property
    def status(self) -> dict[str, Any]:
        """Its part of `hostagent status`."""
        advertiser, at = self.advertiser, now()
        return {
            "backend": self._config.backend,
            "active": advertiser.active,
            "leaving": advertiser.leaving.value,
            "table": self._config.table,
            "protocol": self._config.protocol,
            "peers": [self._peer(peer, at) for peer in advertiser.peers],
            "prefixes": [
                {"prefix": str(prefix), "class": number, "for_s": _ago(advertiser.prefixes.since.get(prefix), at)}
                for prefix, number in sorted(advertiser.prefixes.present.items(), key=lambda each: _by_number(each[0]))
            ],
            "classes": [
                {"number": number, "grants": [asdict(grant) for grant in each.grants]}
                for number, each in sorted(advertiser.classes.items())
            ],
            "excluded": {str(vip): why.value for vip, why in advertiser.plan.excluded.items()},
            "missed": advertiser.lost,
            "repaired": advertiser.repaired,
        }

    def _peer(self, peer: Peer, at: Instant) -> dict[str, Any]:
        states = self.advertiser.states
        state = states.of.get(peer.name)
        return {
            "name": peer.name,
            "neighbor": peer.neighbor,
            "vrf": peer.vrf,
            "asn": (state.remote_asn if state else None) or peer.peer_asn,
            "state": state.state.value if state else "not configured",
            "for_s": _ago(states.since.get(peer.name), at),
            "sent": sum(state.sent.values()) if state else 0,
            "received": sum(state.received.values()) if state else 0,
            "bfd": state.bfd if state else "",
            "dropped": state.dropped if state else 0,
            "last_reset": state.last_reset if state else "",
        }

    @property
    def sessions(self) -> list[BgpSession]:
        """For metrics."""
        present = self.advertiser.states.of
        return [
            BgpSession(
                peer=peer.name,
                neighbor=peer.neighbor,
                vrf=peer.vrf,
                up=(state := present.get(peer.name)) is not None and state.state is SessionState.ESTABLISHED,
                bfd_up=None if state is None or not state.bfd else state.bfd == "up",
                sent=sum(state.sent.values()) if state else 0,
                pending=len(self._for(peer)) - (sum(state.sent.values()) if state else 0),
                received=sum(state.received.values()) if state else 0,
                updates_sent=state.updates_sent if state else 0,
                dropped=state.dropped if state else 0,
            )
            for peer in self.advertiser.peers
        ]

    def _for(self, peer: Peer) -> list[Network]:
        """The prefixes that this peer shall hear."""
        prefixes = self.advertiser.plan.prefixes
        reached = {each: each.toward(peer.name) is not None for each in set(prefixes.values())}
        return [p for p, each in prefixes.items() if reached[each] and p.version in peer.versions]

    def _secrets_changed(self) -> None:
        self._cluster.secrets = dict(self.secrets.known)
        self._cluster.config_changed = True
        self._wake()


async def open_edges(config: BgpConfig) -> tuple[Router | None, Routes] | None:
    """The routing daemon and our routes, as the host's configuration says; None while there is no daemon.

    Raises EdgeError.
    """
    if config.backend == "external":
        return None, await KernelRoutes.open(config.table, config.protocol)
    run_dir = Path(config.frr_run_dir)
    if not frr_present(run_dir):
        return None
    router = FrrRouter(run_dir, Path(config.frr_file))
    await router.version()  # it may only have left its socket
    own = await KernelRoutes.open(config.table, config.protocol)
    main = await KernelRoutes.open(MAIN_TABLE, config.protocol)
    return router, FrrRoutes(own, main, router)


def _ago(since: Instant | None, at: Instant) -> float | None:
    return None if since is None else round(at - since, 1)


def _by_number(prefix: Network) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen
