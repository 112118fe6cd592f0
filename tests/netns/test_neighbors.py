from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from hostagent.edges.neighbors import Neighbors
from hostagent.edges.neighbors.socket import PacketSockets
from hostagent.model.errors import EdgeError
from hostagent.model.host import Heard
from hostagent.model.names import IP, Mac

from .conftest import Host, Segment

V4, V6 = ip_address("192.0.2.100"), ip_address("2001:db8::100")
BOTH = pytest.mark.parametrize("vip", [V4, V6], ids=["v4", "v6"])


@contextlib.asynccontextmanager
async def neighbors(host: Host, heard: list[Heard] | None = None) -> AsyncIterator[Neighbors]:
    edge = Neighbors(heard=(heard if heard is not None else []).append)
    try:
        await edge.open(host.interface, host.mac)
        yield edge
    finally:
        edge.close()


def give(host: Host, vip: IP) -> None:
    flags = ("nodad", "preferred_lft", "0") if vip.version == 6 else ()
    host.sh("ip", "address", "add", f"{vip}/{vip.max_prefixlen}", "dev", "eth0", *flags)


def believed(client: Host, vip: IP) -> str:
    """The MAC in the client's neighbour cache."""
    (entry,) = json.loads(client.sh("ip", "-json", "neigh", "show", str(vip), "dev", "eth0")) or [{}]
    return str(entry.get("lladdr", ""))


async def until_believed(client: Host, vip: IP, mac: Mac) -> None:
    async with asyncio.timeout(5):
        while await asyncio.to_thread(believed, client, vip) != mac:  # noqa: ASYNC110 - the kernel's word
            await asyncio.sleep(0.01)


@BOTH
def test_an_announcement_moves_the_clients(segment: Segment, host: Host, client: Host, vip: IP) -> None:
    former = segment.host()
    give(former, vip)
    client.sh("ping", "-c1", "-W2", str(vip))
    assert believed(client, vip) == former.mac
    former.sh("ip", "address", "del", f"{vip}/{vip.max_prefixlen}", "dev", "eth0")
    give(host, vip)

    async def main() -> float:
        async with neighbors(host) as edge:
            edge.announce(vip, host.interface)
            started = time.monotonic()
            await until_believed(client, vip, host.mac)
            return time.monotonic() - started

    assert host.run(main) < 3.0  # a stale entry would live for 40 s
    client.sh("ping", "-c1", "-W2", str(vip))


@BOTH
def test_a_vip_that_is_being_handed_over_is_not_announced_but_defended(host: Host, vip: IP) -> None:
    async def main() -> list[int]:
        async with neighbors(host) as edge:
            sent = []
            edge.announce(vip, host.interface)
            edge.hush(vip)
            await asyncio.sleep(0.3)  # the burst would be at 0, 50 and 200 ms
            sent.append(edge.counters.sent)
            edge.defend(vip)
            sent.append(edge.counters.sent)
            edge.resume(vip)
            await asyncio.sleep(0.1)
            sent.append(edge.counters.sent)
            edge.silence(vip)
            edge.resume(vip)
            await asyncio.sleep(0.1)
            sent.append(edge.counters.sent)
            return sent

    hushed, defended, resumed, silenced = host.run(main)
    assert hushed == 0
    assert 0 < defended < resumed == silenced


@BOTH
def test_others_hear_the_burst_and_the_announcer_does_not(host: Host, client: Host, vip: IP) -> None:
    async def announcer(heard: list[Heard]) -> int:
        async with neighbors(host, heard) as edge:
            edge.announce(vip, host.interface)
            await asyncio.sleep(0.5)  # 0, 50 and 200 ms; fewer if this machine stalls
            edge.silence(vip)
            return edge.counters.sent

    async def main() -> None:
        own: list[Heard] = []
        heard: list[Heard] = []
        async with neighbors(client, heard) as edge:
            sent = await asyncio.to_thread(host.run, lambda: announcer(own))
            await asyncio.sleep(0.05)
            assert edge.counters.received == len(heard)
        assert own == []
        assert sent > (2 if vip.version == 4 else 1)
        assert heard == [Heard(ip=vip, mac=host.mac, interface=client.interface)] * sent

    client.run(main)


def test_probing_finds_the_owner_and_silence(host: Host, client: Host) -> None:
    owned: list[IP] = [ip_address("192.0.2.101"), ip_address("2001:db8::101")]
    for vip in owned:
        give(client, vip)

    async def main() -> None:
        heard: list[Heard] = []
        async with neighbors(host, heard) as edge:
            answers = await edge.probe([*owned, V4, V6], host.interface)
            assert answers == {**dict.fromkeys(owned, client.mac), V4: None, V6: None}
            assert {h.ip for h in heard} == set(owned)
            assert edge.counters.probes == 2 + 2 * 3  # an owner is asked once, silence three times

    host.run(main)


@BOTH
def test_ones_own_answer_is_no_answer(host: Host, client: Host, vip: IP) -> None:
    """Also of another interface of the host on the same segment, which answers for all of the host's addresses."""
    give(host, vip)

    async def main() -> None:
        async with neighbors(client) as edge:
            edge.own_macs([host.mac])  # as if it were the client's second interface
            assert await edge.probe([vip], client.interface) == {vip: None}

    client.run(main)


def test_a_probe_teaches_nobody(host: Host, client: Host) -> None:
    give(client, V4)
    give(client, V6)

    async def main() -> None:
        async with neighbors(host) as edge:
            await edge.probe([V4, V6], host.interface)

    host.run(main)
    assert json.loads(client.sh("ip", "-json", "neigh", "show", "dev", "eth0")) == []


def test_a_thousand_vips_are_probed_in_common(host: Host, client: Host) -> None:
    owned: list[IP] = [ip_address("198.18.0.0") + n for n in range(250)]
    client.sh("ip", "-batch", "-", stdin="\n".join(f"address add {ip}/32 dev eth0" for ip in owned))
    free: list[IP] = [ip_address("198.18.1.0") + n for n in range(250)]

    async def main() -> None:
        async with neighbors(host) as edge:
            answers = await edge.probe([*owned, *free], host.interface)
            assert {ip for ip, mac in answers.items() if mac == client.mac} == set(owned)
            assert {ip for ip, mac in answers.items() if mac is None} == set(free)

    host.run(main)


def test_vips_and_witnesses_are_asked_in_common(segment: Segment, host: Host, client: Host) -> None:
    """VIPs of a dead host, and other hosts' own addresses: if these are silent too, it is the asker who is alone."""
    third = segment.host()
    silent: list[IP] = [ip_address("198.18.0.0") + n for n in range(100)]
    silent += [ip_address("2001:db8:0:1::") + n for n in range(100)]
    witnesses = {ip_address(f"192.0.2.{h.number}"): h.mac for h in (client, third)}
    witnesses |= {ip_address(f"2001:db8::{h.number}"): h.mac for h in (client, third)}

    async def main() -> None:
        async with neighbors(host) as edge:
            answers = await edge.probe([*silent, *witnesses], host.interface)
            assert answers == {**dict.fromkeys(silent, None), **witnesses}

    host.run(main)


@BOTH
def test_defending_is_one_announcement_and_what_provoked_it_is_counted(host: Host, client: Host, vip: IP) -> None:
    async def rival() -> None:
        async with neighbors(client) as edge:
            edge.announce(vip, client.interface)
            await asyncio.sleep(0.01)

    async def main() -> None:
        heard: list[Heard] = []
        async with neighbors(host, heard) as edge:
            edge.announce(vip, host.interface)
            await asyncio.sleep(0.3)  # 0, 50 and 200 ms; the next is due after 1 s
            await asyncio.to_thread(client.run, rival)
            await asyncio.sleep(0.01)
            assert edge.counters.foreign == len(heard) > 0
            sent = edge.counters.sent
            edge.defend(vip)
            assert edge.counters.sent == sent + (2 if vip.version == 4 else 1)
            edge.silence(vip)
            edge.defend(vip)
            assert edge.counters.sent == sent + (2 if vip.version == 4 else 1)

    host.run(main)


def test_defending_on_a_dead_link_is_counted(host: Host) -> None:
    async def main() -> None:
        async with neighbors(host) as edge:
            edge.announce(V4, host.interface)
            await asyncio.sleep(0.01)
            host.sh("ip", "link", "set", "eth0", "down")
            failed = edge.counters.failed
            edge.defend(V4)
            assert edge.counters.failed == failed + 1

    host.run(main)


def test_answers_that_came_while_the_loop_stood_still_count(host: Host, client: Host) -> None:
    """A verdict of silence after a stall would be about our own deafness."""
    give(client, V4)

    async def main() -> None:
        async with neighbors(host) as edge:
            probing = asyncio.create_task(edge.probe([V4], host.interface))
            await asyncio.sleep(0)
            time.sleep(0.5)  # noqa: ASYNC251 - the stall
            assert await probing == {V4: client.mac}

    host.run(main)


def test_ordinary_traffic_is_filtered_in_the_kernel(host: Host, client: Host) -> None:
    async def main() -> None:
        frames: list[bytes] = []
        sockets = PacketSockets.open(client.interface, client.mac)
        with contextlib.closing(sockets):
            sockets.listen(frames.append)
            for ip in ("192.0.2.2", "2001:db8::2"):  # requests and solicitations for the client, and its answers
                await asyncio.to_thread(host.sh, "ping", "-c1", "-W2", ip)
        assert frames == []

    client.run(main)


def test_a_down_interface_is_an_error_for_probes_and_none_for_announcements(host: Host) -> None:
    async def main() -> None:
        async with neighbors(host) as edge:
            host.sh("ip", "link", "set", "eth0", "down")
            with pytest.raises(EdgeError, match="down"):
                await edge.probe([V4], host.interface)
            edge.announce(V4, host.interface)
            await asyncio.sleep(0.1)
            assert edge.counters.failed >= 1

    host.run(main)


@pytest.mark.parametrize("change", ["down and up", "re-created", "other MAC"])
def test_after_a_change_of_the_interface_vips_are_announced_anew(
    segment: Segment, host: Host, client: Host, change: str
) -> None:
    async def main() -> None:
        async with neighbors(host) as edge:
            edge.announce(V4, host.interface)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(client.sh, "ip", "neigh", "flush", "all")
            match change:
                case "down and up":
                    host.sh("ip", "link", "set", "eth0", "down")
                    await asyncio.sleep(0.05)
                    host.sh("ip", "link", "set", "eth0", "up")
                case "re-created":
                    host.sh("ip", "link", "del", "eth0")
                    await asyncio.sleep(0.05)
                    host.plug(segment)
                case _:
                    host.sh("ip", "link", "set", "eth0", "address", "02:00:00:00:00:77")
                    host.mac = Mac("02:00:00:00:00:77")
            client.sh("ip", "neigh", "replace", str(V4), "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
            await edge.open(host.interface, host.mac)
            await until_believed(client, V4, host.mac)
            give(client, ip_address("192.0.2.101"))
            probed = await edge.probe([ip_address("192.0.2.101")], host.interface)
            assert list(probed.values()) == [client.mac]

    host.run(main)


def test_an_interface_that_is_not_there_is_named(host: Host) -> None:
    async def main() -> None:
        edge = Neighbors(heard=print)
        with pytest.raises(EdgeError, match="eth7"):
            await edge.open(type(host.interface)("eth7"), host.mac)
        with pytest.raises(EdgeError, match="not open"):
            edge.announce(V4, host.interface)
        with pytest.raises(EdgeError, match="not open"):
            await edge.probe([V4], host.interface)

    host.run(main)


def test_ten_thousand_vips_do_not_stop_the_loop(host: Host) -> None:
    vips = [ip_address("198.18.0.0") + n for n in range(10_000)]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with neighbors(host) as edge:
            for vip in vips:
                edge.announce(vip, host.interface)
            longest, last = 0.0, loop.time()
            while edge.counters.sent < 2 * len(vips):
                await asyncio.sleep(0)
                longest, last = max(longest, loop.time() - last), loop.time()
            assert longest < 0.5  # 5 ms, on a machine of its own
            for vip in vips:
                edge.silence(vip)

    host.run(main)


def test_the_agents_user_needs_two_ambient_capabilities(host: Host) -> None:
    code = f"""
import asyncio
from ipaddress import ip_address
from hostagent.edges.neighbors import Neighbors
from hostagent.edges.netlink import KernelAddresses

async def main():
    kernel, edge = await KernelAddresses.open(), Neighbors(heard=print)
    await edge.open("eth0", "{host.mac}")
    await kernel.add(ip_address("{V4}"), {host.index}, 10)
    edge.announce(ip_address("{V4}"), "eth0")
    print(await edge.probe([ip_address("{V6}")], "eth0"))
    edge.close()
    await kernel.close()

asyncio.run(main())
"""
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
    both = "+net_admin,+net_raw"
    capable = (f"--inh-caps={both}", f"--ambient-caps={both}", f"--bounding-set=-all,{both}")
    assert f"IPv6Address('{V6}'): None" in host.sh(*user, *capable, sys.executable, "-c", code)
    assert host.holds(str(V4))
