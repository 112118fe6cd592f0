"""Watched VIPs on a real segment: who answers is left alone, who does not is found silent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from ipaddress import ip_address

import pytest

from hostagent.edges.neighbors import Neighbors
from hostagent.edges.neighbors.watch_schedule import QUESTIONS, REGULAR_PER_S
from hostagent.model.host import Heard
from hostagent.model.names import IP, InterfaceName, Mac, NodeName
from hostagent.model.ownership import Watched

from .conftest import Host, Segment

V4, V6 = ip_address("192.0.2.100"), ip_address("2001:db8::100")
BOTH = pytest.mark.parametrize("vip", [V4, V6], ids=["v4", "v6"])
NOWHERE = Mac("02:00:00:00:00:99")


def give(host: Host, *vips: IP) -> None:
    lines = [
        f"address add {vip}/{vip.max_prefixlen} dev eth0{' nodad preferred_lft 0' if vip.version == 6 else ''}"
        for vip in vips
    ]
    host.sh("ip", "-batch", "-", stdin="\n".join(lines))


def take(host: Host, vip: IP) -> None:
    host.sh("ip", "address", "del", f"{vip}/{vip.max_prefixlen}", "dev", "eth0")


def held_by(host: Host, *vips: IP, mac: Mac | None = None) -> dict[IP, Watched]:
    target = Watched(holder=NodeName(host.name), interface=InterfaceName("eth0"), mac=mac or host.mac)
    return dict.fromkeys(vips, target)


def neighbours_of(host: Host) -> dict[str, str]:
    """What is in the host's ARP and NDP caches."""
    entries = json.loads(host.sh("ip", "-json", "neigh", "show", "dev", "eth0"))
    return {entry["dst"]: entry.get("lladdr", "") for entry in entries}


class Watcher:
    """The edge on a host, and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[IP, bool]] = []
        self.heard: list[Heard] = []
        self.edge = Neighbors(self.heard.append, watched=lambda vip, silent: self.told.append((vip, silent)))

    @property
    def counters(self) -> tuple[int, int]:
        return self.edge.counters.watch_unanswered, self.edge.counters.watch_silences

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not what():  # noqa: ASYNC110 - told by callbacks, counted by counters
                await asyncio.sleep(0.005)

    async def until_asked(self, questions: int) -> None:
        enough = self.edge.counters.watch_questions + questions
        await self.until(lambda: self.edge.counters.watch_questions >= enough)


@contextlib.asynccontextmanager
async def watcher(host: Host, targets: Mapping[IP, Watched]) -> AsyncIterator[Watcher]:
    made = Watcher()
    await until_link_local(host)
    try:
        await made.edge.open(host.interface, host.mac)
        made.edge.watch(targets)
        yield made
    finally:
        made.edge.close()


async def until_link_local(host: Host) -> None:
    """IPv6 questions have a source of their own once the kernel has made the link-local address."""
    usable = ("ip", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative")
    async with asyncio.timeout(5):
        while not await asyncio.to_thread(host.sh, *usable):  # noqa: ASYNC110 - the kernel's word
            await asyncio.sleep(0.02)


def test_who_answers_is_never_silent(host: Host, client: Host) -> None:
    give(host, V4, V6)

    async def main() -> None:
        async with watcher(client, held_by(host, V4, V6)) as at_client:
            await asyncio.sleep(3)
            at_client.edge.watch(held_by(host, V4, V6))  # as after each turn of the agent's loop
            assert sorted(at_client.told, key=str) == [(V4, False), (V6, False)]
            assert at_client.counters == (0, 0)
            assert at_client.edge.counters.watch_questions >= 2 * 3 / 0.2 - 4
            assert {(h.ip, h.mac) for h in at_client.heard} == {(V4, host.mac), (V6, host.mac)}

    client.run(main)


@pytest.mark.parametrize("fault", ["link down", "address removed", "interface gone"])
@BOTH
def test_silence_is_found_and_its_end(segment: Segment, host: Host, client: Host, vip: IP, fault: str) -> None:
    give(host, vip)

    async def main() -> None:
        async with watcher(client, held_by(host, vip)) as at_client:
            await at_client.until_asked(3)
            assert at_client.told == [(vip, False)]
            match fault:
                case "link down":
                    await asyncio.to_thread(host.sh, "ip", "link", "set", "eth0", "down")
                case "address removed":
                    await asyncio.to_thread(take, host, vip)
                case _:
                    await asyncio.to_thread(host.sh, "ip", "link", "del", "eth0")
            await at_client.until(lambda: at_client.told == [(vip, False), (vip, True)])
            assert at_client.counters == (QUESTIONS, 1)
            await at_client.until_asked(3)  # it goes on, and says nothing new
            assert at_client.told == [(vip, False), (vip, True)]
            if fault == "link down":
                await asyncio.to_thread(host.sh, "ip", "link", "set", "eth0", "up")
            elif fault == "interface gone":
                await asyncio.to_thread(host.plug, segment)
                await asyncio.to_thread(host.sh, "ip", "link", "set", "eth0", "address", old_mac)
            if not host.holds(str(vip)):  # an IPv6 address goes with the link
                await asyncio.to_thread(give, host, vip)
            await at_client.until(lambda: at_client.told.count((vip, False)) == 2)
            asked = at_client.edge.counters.watch_unanswered
            await at_client.until_asked(3)
            assert at_client.told[-1] == (vip, False)
            assert at_client.edge.counters.watch_unanswered == asked

    old_mac = host.mac
    client.run(main)


def test_lasting_silence_is_told_again(host: Host, client: Host) -> None:
    async def main() -> None:
        async with watcher(client, held_by(host, V4)) as at_client:
            started = time.monotonic()
            await at_client.until(lambda: len(at_client.told) == 3)
            assert time.monotonic() - started > 2.0
            assert set(at_client.told) == {(V4, True)}
            assert at_client.edge.counters.watch_silences == 1

    client.run(main)


@BOTH
def test_a_loop_that_stands_still_accuses_nobody(host: Host, client: Host, vip: IP) -> None:
    give(host, vip)

    async def main() -> None:
        async with watcher(client, held_by(host, vip)) as at_client:
            for _ in range(4):
                await at_client.until_asked(1)
                time.sleep(0.5)  # noqa: ASYNC251 - the stall; the answer to the question is there, and unread
            await at_client.until_asked(3)
            assert at_client.told == [(vip, False)]
            assert at_client.counters == (0, 0)

    client.run(main)


def test_a_question_whose_time_was_over_during_a_stall_is_asked_again(host: Host, client: Host) -> None:
    """The holder was away during the stall: its silence then is not counted."""
    give(host, V4)

    async def main() -> None:
        async with watcher(client, held_by(host, V4)) as at_client:
            await at_client.until_asked(2)
            take(host, V4)
            await at_client.until(lambda: at_client.edge.counters.watch_unanswered > 0)
            counted = at_client.edge.counters.watch_unanswered
            time.sleep(0.3)  # noqa: ASYNC251
            give(host, V4)
            await at_client.until_asked(2)
            assert at_client.told == [(V4, False)]
            assert at_client.edge.counters.watch_unanswered == counted

    client.run(main)


@BOTH
def test_a_machine_that_took_over_is_no_silence(segment: Segment, host: Host, client: Host, vip: IP) -> None:
    """Asked for by unicast at the former MAC nobody answers; the last question, for everybody, finds the other."""
    other = segment.host()
    give(host, vip)

    async def main() -> None:
        async with watcher(client, held_by(host, vip)) as at_client:
            await at_client.until_asked(2)
            await asyncio.to_thread(give, other, vip)
            await asyncio.to_thread(take, host, vip)
            at_client.heard.clear()
            await at_client.until(lambda: at_client.edge.counters.watch_unanswered >= 3 * (QUESTIONS - 1))
            assert at_client.told == [(vip, False)]
            assert Heard(ip=vip, mac=other.mac, interface=client.interface) in at_client.heard

    client.run(main)


@BOTH
def test_an_announcement_of_another_machine_ends_a_silence(host: Host, client: Host, segment: Segment, vip: IP) -> None:
    other = segment.host()

    async def announce() -> None:
        edge = Neighbors(lambda _heard: None)
        await edge.open(other.interface, other.mac)
        edge.announce(vip, other.interface)
        await asyncio.sleep(0.1)
        edge.close()

    async def main() -> None:
        async with watcher(client, held_by(host, vip)) as at_client:
            await at_client.until(lambda: at_client.told == [(vip, True)])
            await asyncio.to_thread(other.run, announce)
            await at_client.until(lambda: (vip, False) in at_client.told)

    client.run(main)


def test_who_answers_on_another_segment_is_not_meant(segment: Segment, host: Host, client: Host) -> None:
    give(host, V4)
    client.sh("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "nobody", "netns", segment.name)
    segment.sh("ip", "link", "set", "nobody", "up")
    client.sh("ip", "link", "set", "eth1", "up", "address", "02:00:00:00:00:e1")
    lonely = InterfaceName("eth1")

    async def main() -> None:
        async with watcher(client, {}) as at_client:
            await at_client.edge.open(lonely, Mac("02:00:00:00:00:e1"))
            at_client.edge.watch({V4: Watched(holder=NodeName("b"), interface=lonely, mac=host.mac)})
            await at_client.until(lambda: at_client.told == [(V4, True)])
            assert await at_client.edge.probe([V4], client.interface) == {V4: host.mac}
            assert at_client.told == [(V4, True)]

    client.run(main)


@BOTH
def test_questions_go_to_the_holder_alone_and_so_do_answers(
    segment: Segment, host: Host, client: Host, vip: IP
) -> None:
    bystander = segment.host()
    give(host, vip)

    async def main() -> None:
        with contextlib.closing(await asyncio.to_thread(bystander.call, all_frames)) as elsewhere:
            async with watcher(client, held_by(host, vip)) as at_client:
                await at_client.until_asked(5)
                assert at_client.counters == (0, 0)
            assert [frame for frame in arrived(elsewhere) if vip.packed in frame] == []

    client.run(main)
    learnt = neighbours_of(host)
    if vip.version == 4:
        assert learnt == {}
    else:  # where the answer went: true, and what a question of the kernel would have taught
        assert set(learnt.values()) == {client.mac}
        assert all(ip_address(ip).is_link_local for ip in learnt)
    assert str(vip) not in neighbours_of(client)


def all_frames() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(0x0003))
    sock.bind(("eth0", 0x0003))
    return sock


def arrived(sock: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield sock.recv(2048)


def test_without_a_link_local_address_ipv6_is_asked_for_from_nowhere(host: Host, client: Host) -> None:
    give(host, V6)

    async def main() -> None:
        async with watcher(client, {}) as at_client:
            await asyncio.to_thread(client.sh, "ip", "-6", "addr", "flush", "dev", "eth0", "scope", "link")
            at_client.edge.watch(held_by(host, V6))
            await at_client.until_asked(5)
            assert at_client.counters == (0, 0)

    client.run(main)
    assert neighbours_of(host) == {}


def test_two_hundred_are_asked_for_at_the_rate_of_few(host: Host, client: Host) -> None:
    vips: list[IP] = [ip_address("198.18.0.0") + n for n in range(200)]
    give(host, *vips)

    async def main() -> None:
        with contextlib.closing(await asyncio.to_thread(host.call, all_frames)) as at_host:
            async with watcher(client, held_by(host, *vips)) as at_client:
                started = time.monotonic()
                await asyncio.sleep(2)
                lasted = time.monotonic() - started
                asked = at_client.edge.counters.watch_questions
                assert not any(silent for _, silent in at_client.told)
            questions = [vip for frame in arrived(at_host) if (vip := asked_for(frame, client.mac))]
        assert 25 * lasted < asked <= REGULAR_PER_S * lasted + 1
        assert len(questions) == asked
        assert len(set(questions)) == asked  # nobody twice before everybody was asked once

    client.run(main)


def asked_for(frame: bytes, asker: Mac) -> bytes | None:
    """The address that an ARP request of this machine asks for."""
    is_arp = frame[6:14] == bytes.fromhex(asker.replace(":", "")) + b"\x08\x06"
    return frame[38:42] if is_arp and frame[20:22] == b"\0\1" else None


@pytest.mark.parametrize("what", ["oneself", "a second interface", "a closed interface", "no MAC"])
def test_who_cannot_be_asked_is_neither_asked_nor_silent(host: Host, client: Host, what: str) -> None:
    give(host, V4)
    second = Mac("02:00:00:00:00:55")
    macs = {"oneself": client.mac, "a second interface": second, "no MAC": Mac("nonsense")}
    here = Watched(holder=NodeName("b"), interface=client.interface, mac=macs.get(what, host.mac))
    closed = Watched(holder=NodeName("b"), interface=InterfaceName("eth7"), mac=host.mac)

    async def main() -> None:
        async with watcher(client, {}) as at_client:
            at_client.edge.own_macs([client.mac, second])
            at_client.edge.watch({V4: closed if what == "a closed interface" else here})
            await at_client.until(lambda: at_client.edge.counters.watch_skipped >= QUESTIONS + 1)
            assert at_client.edge.counters.watch_questions == 0
            assert at_client.told == []

    client.run(main)


def test_ones_own_dead_link_accuses_nobody(host: Host, client: Host) -> None:
    give(host, V4)

    async def main() -> None:
        async with watcher(client, held_by(host, V4)) as at_client:
            await at_client.until_asked(2)
            await asyncio.to_thread(client.sh, "ip", "link", "set", "eth0", "down")
            await at_client.until(lambda: at_client.edge.counters.failed >= QUESTIONS + 1)
            assert at_client.told == [(V4, False)]
            await asyncio.to_thread(client.sh, "ip", "link", "set", "eth0", "up")
            await at_client.edge.open(client.interface, client.mac)
            await at_client.until_asked(QUESTIONS)
            assert at_client.told == [(V4, False)]

    client.run(main)


def test_who_is_watched_no_longer_is_left_in_peace(host: Host, client: Host) -> None:
    async def main() -> None:
        async with watcher(client, held_by(host, V4, mac=NOWHERE)) as at_client:
            await at_client.until(lambda: at_client.told == [(V4, True)])
            at_client.edge.watch({})
            asked = at_client.edge.counters.watch_questions
            await asyncio.sleep(0.5)
            assert at_client.edge.counters.watch_questions == asked
            at_client.edge.watch(held_by(host, V4))
            await at_client.until(lambda: at_client.told == [(V4, True)] * 2)

    client.run(main)
