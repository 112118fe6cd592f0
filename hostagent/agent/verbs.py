"""What an operator can ask of this host's agent: drain, undrain, move, rebalance; and what it remembers of that."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import msgspec

from hostagent.agent.clock import now
from hostagent.agent.control import NoArguments, Peer, RefusedError, Verb
from hostagent.core.ownership import Ownership
from hostagent.model.cluster import Node
from hostagent.model.names import IP, NodeName
from hostagent.model.ownership import Claim, Move, Why
from hostagent.telemetry.journal import say, warn

FILE = "drained"


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """That somebody asked this host to drain: the file `drained`. It outlives restarts, upgrades and reboots."""

    since: str
    """Wall time, for people."""
    by: str
    uid: int


class Where(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `where`."""

    vips: tuple[str, ...] = ()
    """Empty: all that this host holds or that a claim names it for."""


class MoveTo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of `move`."""

    vip: str
    node: str


def load(directory: Path) -> Drained | None:
    """Whether somebody asked to drain before this life of the agent. A file that cannot be read still says so."""
    path = directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Drained)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as exc:
        warn("drain.unreadable", f"{path} cannot be read, so this host stays drained: {exc}")
        return Drained(since="an unknown time", by="somebody", uid=-1)


def save(directory: Path, drained: Drained) -> None:
    """Replace the file at once or not at all, and so that it is there after a power cut. Raises OSError."""
    path = directory / FILE
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(drained))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync(directory)


def forget(directory: Path) -> None:
    """Remove the file, for good. Raises OSError."""
    (directory / FILE).unlink(missing_ok=True)
    _sync(directory)


def why_draining(drained: Drained | None, *, node: Node | None, on_cordon: Literal["keep", "drain"]) -> str:
    """Why this host takes no VIPs and hands over those that it has; empty when it does not.

    An operator's word stands until it is taken back; a cordon of the host's own Node counts while it lasts.
    """
    if drained is not None:
        return f"{drained.by} asked for it at {drained.since}"
    if on_cordon == "drain" and node is not None and node.unschedulable:
        return f"its Node {node.name} is cordoned"
    return ""


class Verbs:
    """The operator's verbs. `settle` puts in force what was asked; call it at start and when Nodes change."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        state_dir: Path,
        on_cordon: Literal["keep", "drain"],
        tell: Callable[[bool], None],
        wake: Callable[[], None],
        prefixes: Callable[[], int],
    ) -> None:
        """`tell` makes it known to the other hosts whether this one drains; `wake` has the VIPs judged; `prefixes`
        counts what this host advertises by BGP.
        """
        self._prefixes = prefixes
        self.why_draining = ""
        self._ownership = ownership
        self._state_dir = state_dir
        self._on_cordon = on_cordon
        self._tell = tell
        self._wake = wake
        self._node: Node | None = None
        self._drained = load(state_dir)

    def settle(self, node: Node | None) -> None:
        """Drain, or end it, as the operator and this host's Node (None: not known) want it now."""
        self._node = node
        before = self.why_draining
        self.why_draining = why_draining(self._drained, node=node, on_cordon=self._on_cordon)
        self._ownership.draining = bool(self.why_draining)
        self._tell(bool(self.why_draining))
        if self.why_draining and not before:
            held = len(self._ownership.held)
            say("drain.begun", f"draining, {held} VIPs to hand over: {self.why_draining}")
        elif before and not self.why_draining:
            say("drain.ended", "no longer draining: this host may take VIPs again")
        if self.why_draining != before:
            self._wake()

    @property
    def table(self) -> dict[str, Verb]:
        """For the control socket."""
        return {
            "drain": Verb(answer=self.drain, arguments=NoArguments, changes=True),
            "undrain": Verb(answer=self.undrain, arguments=NoArguments, changes=True),
            "move": Verb(answer=self.move, arguments=MoveTo, changes=True),
            "rebalance": Verb(answer=self.rebalance, arguments=NoArguments, changes=True),
            "plan": Verb(answer=self.plan, arguments=NoArguments, changes=False),
            "where": Verb(answer=self.where, arguments=Where, changes=False),
        }

    def drain(self, _: NoArguments, peer: Peer) -> dict[str, Any]:
        """Take nothing and hand over everything until told otherwise; what is on its way to leaving, as in `where`."""
        if self._drained is None:
            by = _name(peer.uid)
            since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            drained = Drained(since=since, by=by, uid=peer.uid)
            try:
                save(self._state_dir, drained)
            except OSError as exc:
                raise RefusedError(
                    f"not drained: {self._state_dir / FILE} cannot be written, so a restart would undo it: {exc}"
                ) from exc
            self._drained = drained
            say("operator.asked", f"{by} asked to drain this host", by=by)
            self.settle(self._node)
        return self.where(Where(), peer)

    def undrain(self, _: NoArguments, peer: Peer) -> dict[str, Any]:
        """Take VIPs again. `why_draining` of the answer is not empty if a cordon still forbids it."""
        try:
            forget(self._state_dir)
        except OSError as exc:
            raise RefusedError(f"still drained: {self._state_dir / FILE} cannot be removed: {exc}") from exc
        if self._drained is not None:
            self._drained = None
            by = _name(peer.uid)
            say("operator.asked", f"{by} asked to end the drain of this host", by=by)
            self.settle(self._node)
        return {"node": self._ownership.me, "why_draining": self.why_draining}

    def move(self, asked: MoveTo, peer: Peer) -> dict[str, Any]:
        """Hand one VIP of this host over to `node`."""
        vip = _vip(asked.vip)
        refusal = self._ownership.ask_move(vip, NodeName(asked.node), now())
        if refusal:
            raise RefusedError(refusal)
        by = _name(peer.uid)
        say("operator.asked", f"{by} asked to move {vip} to {asked.node}", vip=vip, by=by)
        self._wake()
        return self.where(Where(vips=(asked.vip,)), peer)

    def rebalance(self, _: NoArguments, peer: Peer) -> dict[str, Any]:
        """Hand over those of this host's VIPs that are better placed elsewhere; the plan as it was before."""
        answer = self.plan(_, peer)
        moves = self._ownership.rebalance(now())
        if moves:
            by = _name(peer.uid)
            say("operator.asked", f"{by} asked to rebalance: {len(moves)} VIPs leave this host", by=by)
            self._wake()
        return answer

    def plan(self, _: NoArguments, __: Peer) -> dict[str, Any]:
        """The moves after which every VIP of the cluster is where it is best placed."""
        me = self._ownership.me
        moves = sorted(self._ownership.plan(now()), key=_order)
        return {
            "node": me,
            "moves": [
                {"vip": str(move.vip), "holder": move.holder, "to": move.to, "here": move.holder == me}
                for move in moves
            ],
        }

    def where(self, asked: Where, _: Peer) -> dict[str, Any]:
        """Who has these VIPs, what keeps those here that should leave, and how many prefixes are advertised."""
        ownership = self._ownership
        claims, held = ownership.claims, ownership.held
        mine = {vip for vip, claim in claims.items() if claim.holder == ownership.me} | held.keys()
        vips = sorted(map(_vip, asked.vips) if asked.vips else mine, key=lambda vip: (vip.version, int(vip)))
        return {
            "node": ownership.me,
            "why_draining": self.why_draining,
            "vips": [self._place(vip, claims, here=vip in held) for vip in vips],
            "prefixes": self._prefixes(),
        }

    def _place(self, vip: IP, claims: Mapping[IP, Claim], *, here: bool) -> dict[str, Any]:
        claim, ranking, verdict = claims.get(vip), self._ownership.ranking(vip), self._ownership.verdict(vip)
        why = verdict.why if verdict else Why.WAITS
        return {
            "vip": str(vip),
            "holder": claim.holder if claim else None,
            "here": here,
            "why": why.value,
            "stuck": why is Why.NO_SUCCESSOR,
            "excluded": {node: each.value for node, each in sorted(ranking.excluded.items())} if ranking else {},
        }


def _order(move: Move) -> tuple[str, int, int]:
    return move.holder, move.vip.version, int(move.vip)


def _vip(text: str) -> IP:
    try:
        return ip_address(text)
    except ValueError:
        raise RefusedError(f'"{text}" is no IP address: give one of those that `hostagent status` lists') from None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _sync(directory: Path) -> None:
    """A rename is on disk when its directory is."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
