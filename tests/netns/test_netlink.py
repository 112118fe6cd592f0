from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from hostagent.edges.netlink import Event, KernelAddresses, LinkChanged
from hostagent.model.errors import EdgeError
from hostagent.model.host import AddressRemoved, HeldAddress
from hostagent.model.names import IP

from .conftest import Host

V4, V6 = ip_address("192.0.2.100"), ip_address("2001:db8::100")
BOTH = pytest.mark.parametrize("vip", [V4, V6], ids=["v4", "v6"])


@contextlib.asynccontextmanager
async def addresses() -> AsyncIterator[KernelAddresses]:
    kernel = await KernelAddresses.open()
    try:
        yield kernel
    finally:
        await kernel.close()


async def gone_within(host: Host, vip: IP, timeout_s: float) -> float:
    """Watch the kernel until the address is gone; seconds that it took."""
    started = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while await asyncio.to_thread(host.holds, str(vip)):  # noqa: ASYNC110 - the kernel's word, not the monitor's
            await asyncio.sleep(0.02)
    return time.monotonic() - started


async def first(kernel: KernelAddresses, wanted: Callable[[Event], bool]) -> Event:
    async for event in kernel.events():
        if wanted(event):
            return event
    raise AssertionError("the monitor ended")


def test_snapshot_tells_own_addresses_from_vips(host: Host) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(V4, host.index, 10)
            await kernel.add(V6, host.index, 10)
            links, held = await kernel.snapshot()
        eth0 = next(link for link in links if link.name == "eth0")
        assert {str(a) for a in eth0.addresses} == {"192.0.2.1/24", "2001:db8::1/64"}
        assert (eth0.up, eth0.enslaved, eth0.loopback, eth0.mac) == (True, False, False, host.mac)
        assert next(link for link in links if link.name == "lo").loopback
        assert all(0 < each.left_s <= 10 for each in held)
        found = {replace(each, left_s=0.0) for each in held}
        assert found == {HeldAddress(ip=v, interface=host.interface, index=host.index) for v in (V4, V6)}

    host.run(main)


def test_a_bond_or_bridge_member_is_enslaved_and_a_link_without_carrier_is_not_up(host: Host) -> None:
    host.sh("ip", "link", "add", "br1", "type", "bridge")
    host.sh("ip", "link", "add", "m0", "type", "veth", "peer", "name", "m1")
    host.sh("ip", "link", "set", "m0", "master", "br1", "up")

    async def main() -> None:
        async with addresses() as kernel:
            links, _ = await kernel.snapshot()
        by_name = {link.name: link for link in links}
        assert by_name[type(host.interface)("m0")].enslaved
        assert not by_name[type(host.interface)("m0")].up  # its peer is down

    host.run(main)


@BOTH
def test_a_vip_has_full_length_a_mark_a_lifetime_and_no_preference(host: Host, vip: IP) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(vip, host.index, 10)

    host.run(main)
    shown = json.loads(host.sh("ip", "-json", "address", "show", "dev", "eth0", "to", str(vip)))
    (entry,) = [e for link in shown for e in link.get("addr_info", []) if e.get("local") == str(vip)]
    assert entry["prefixlen"] == vip.max_prefixlen
    assert entry["preferred_life_time"] == 0
    assert 8 <= entry["valid_life_time"] <= 10
    assert not entry.get("tentative")


@BOTH
def test_a_vip_is_never_chosen_as_source(host: Host, vip: IP) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(vip, host.index, 10)

    host.run(main)
    neighbour = "192.0.2.9" if vip.version == 4 else "2001:db8::109"  # nearer to the VIP than to the host's own
    own = "192.0.2.1" if vip.version == 4 else "2001:db8::1"
    assert json.loads(host.sh("ip", "-json", "route", "get", neighbour))[0]["prefsrc"] == own


@BOTH
def test_nobody_extends_and_the_kernel_removes(host: Host, vip: IP) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(vip, host.index, 1)
            assert await gone_within(host, vip, 3.0) > 0.9
            event = await first(kernel, lambda e: isinstance(e, AddressRemoved))
        assert event == AddressRemoved(
            ip=vip, interface=host.interface, by="the kernel (lifetime expired or link gone)"
        )

    host.run(main)


def test_extending_keeps_all_of_them(host: Host) -> None:
    vips: list[IP] = [ip_address("198.51.100.0") + n for n in range(300)] + [V6]  # more than one batch

    async def main() -> None:
        async with addresses() as kernel:
            for vip in vips:
                await kernel.add(vip, host.index, 2)
            for _ in range(8):
                await asyncio.sleep(0.5)
                assert await kernel.extend(2) == []
            _, held = await kernel.snapshot()
        assert {h.ip for h in held} == set(vips)

    host.run(main)


@BOTH
def test_extending_never_brings_back(host: Host, vip: IP) -> None:
    """An agent that wakes from a hang must not answer for what another host has taken over."""

    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(vip, host.index, 10)
            assert await kernel.extend(10) == []
            host.sh("ip", "address", "del", f"{vip}/{vip.max_prefixlen}", "dev", "eth0")
            await kernel.extend(10)
            assert not host.holds(str(vip))
            await kernel.add(vip, host.index, 10)
            assert await kernel.extend(10) == []
            assert host.holds(str(vip))

    host.run(main)


@BOTH
def test_what_expired_is_told_from_what_somebody_took_off(host: Host, vip: IP) -> None:
    """The first says that this agent hung; of the second an event tells, and it may be put back at once."""

    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(vip, host.index, 10)
            host.sh("ip", "address", "del", f"{vip}/{vip.max_prefixlen}", "dev", "eth0")
            assert await kernel.extend(10) == []
            await first(kernel, lambda e: isinstance(e, AddressRemoved))
            await kernel.add(vip, host.index, 1)
            await gone_within(host, vip, 3.0)
            assert await kernel.extend(10) == [vip]
            assert await kernel.extend(10) == []  # forgotten, until added again

    host.run(main)


def test_a_removal_during_an_extension_wins(host: Host) -> None:
    vips: list[IP] = [ip_address("198.51.100.0") + n for n in range(500)]

    async def main() -> None:
        async with addresses() as kernel:
            for vip in vips:
                await kernel.add(vip, host.index, 10)
            extension = asyncio.create_task(kernel.extend(10))
            await asyncio.gather(*(kernel.remove(vip, host.index) for vip in vips))
            await extension
            assert await kernel.extend(10) == []
            _, held = await kernel.snapshot()
        assert held == ()

    host.run(main)


def test_what_went_with_its_interface_has_not_expired(host: Host) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(V4, host.index, 10)
            host.sh("ip", "link", "del", "eth0")
            assert await kernel.extend(10) == []
            await first(kernel, lambda e: isinstance(e, AddressRemoved))

    host.run(main)


@BOTH
def test_adding_and_removing_twice_is_the_same_as_once(host: Host, vip: IP) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            index = host.index
            await kernel.add(vip, index, 10)
            await kernel.add(vip, index, 10)
            assert host.holds(str(vip))
            await kernel.remove(vip, index)
            await kernel.remove(vip, index)
            assert not host.holds(str(vip))
            await kernel.remove(vip, 4711)  # an interface that never was

    host.run(main)


@BOTH
def test_a_former_life_of_the_agent_is_taken_over(host: Host, vip: IP) -> None:
    async def main() -> None:
        async with addresses() as former:
            await former.add(vip, host.index, 10)
        async with addresses() as kernel:
            await kernel.add(vip, host.index, 10)
            assert await kernel.extend(10) == []
            assert host.holds(str(vip))

    host.run(main)


def test_an_address_of_the_hosts_own_is_left_alone(host: Host) -> None:
    """An IPv6 address is found by address alone: replacing would put a lifetime on the host's own /64."""

    async def main() -> None:
        async with addresses() as kernel:
            with pytest.raises(EdgeError, match="not ours"):
                await kernel.add(ip_address("2001:db8::1"), host.index, 10)
            host.sh("ip", "address", "add", "192.0.2.200/32", "dev", "eth0")
            with pytest.raises(EdgeError, match="not ours"):
                await kernel.add(ip_address("192.0.2.200"), host.index, 10)

    host.run(main)
    assert "valid_lft forever" in host.sh("ip", "address", "show", "dev", "eth0", "to", "2001:db8::1")


def test_errors_name_the_remedy(host: Host) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            with pytest.raises(EdgeError, match="the interface is gone"):
                await kernel.add(V4, 4711, 10)
            host.sh("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
            with pytest.raises(EdgeError, match="disable_ipv6=0"):
                await kernel.add(V6, host.index, 10)

    host.run(main)


def test_no_ipv6_on_the_host_is_no_obstacle(host: Host) -> None:
    host.sh("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.lo.disable_ipv6=1")

    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(V4, host.index, 10)

    host.run(main)


def test_a_foreign_removal_names_its_culprit(host: Host) -> None:
    vip = V4
    with host.popen("ip", "-batch", "-") as ip:  # lives on until its input ends

        async def main() -> Event:
            async with addresses() as kernel:
                await kernel.snapshot()  # learns the interface's name
                await kernel.add(vip, host.index, 10)
                assert ip.stdin
                ip.stdin.write(f"address del {vip}/{vip.max_prefixlen} dev eth0\n")
                ip.stdin.flush()
                return await first(kernel, lambda e: isinstance(e, AddressRemoved))

        event = host.run(main)
    assert event == AddressRemoved(ip=vip, interface=host.interface, by=f"pid {ip.pid} (ip)")


def test_a_foreign_removal_of_an_ipv6_vip_is_news_and_an_own_one_is_not(host: Host) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            for _ in range(3):
                await kernel.add(V6, host.index, 10)
                await kernel.remove(V6, host.index)
            await kernel.remove(V6, host.index)
            await kernel.add(V6, host.index, 10)
            host.sh("ip", "address", "del", f"{V6}/128", "dev", "eth0")
            host.sh("ip", "link", "add", "m0", "type", "veth", "peer", "name", "m1")
            seen: list[Event] = []
            async for event in kernel.events():
                seen.append(event)
                if isinstance(event, LinkChanged) and event.interface == "m0":
                    break
            removals = [e for e in seen if isinstance(e, AddressRemoved)]
            by = "somebody, or the link went down (IPv6 removals do not tell)"
            assert removals == [AddressRemoved(ip=V6, interface=host.interface, by=by)]

    host.run(main)


def test_a_culprit_that_is_gone_is_named_by_its_number(host: Host) -> None:
    async def main() -> Event:
        async with addresses() as kernel:
            await kernel.add(V4, host.index, 10)
            host.sh("ip", "address", "del", f"{V4}/32", "dev", "eth0")  # over before the loop turns again
            return await first(kernel, lambda e: isinstance(e, AddressRemoved))

    event = host.run(main)
    assert isinstance(event, AddressRemoved)
    assert re.fullmatch(r"pid \d+ \(already gone\)", event.by)


def test_own_changes_are_no_news_and_links_are(host: Host) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            await kernel.add(V4, host.index, 10)
            await kernel.extend(10)
            await kernel.remove(V4, host.index)
            host.sh("ip", "link", "add", "m0", "type", "veth", "peer", "name", "m1")
            seen: list[Event] = []
            async for event in kernel.events():
                seen.append(event)
                if isinstance(event, LinkChanged) and event.interface == "m0":
                    break
            assert not [e for e in seen if isinstance(e, AddressRemoved)]
            host.sh("ip", "address", "add", "203.0.113.5/24", "dev", "eth0")
            await first(kernel, lambda e: e == LinkChanged(host.index, host.interface))

    host.run(main)


def test_more_news_than_fits_asks_for_a_new_look(host: Host) -> None:
    async def main() -> None:
        async with addresses() as kernel:
            kernel._monitor._sock.setsockopt(1, 33, 2048)  # SO_RCVBUFFORCE: room for one message or two
            script = "\n".join(f"address add 203.0.113.{n}/32 dev lo" for n in range(1, 200))
            host.sh("ip", "-batch", "-", stdin=script)  # the loop stands still meanwhile
            await first(kernel, lambda e: type(e).__name__ == "Resync")

    host.run(main)


def test_without_the_capability_it_says_which(host: Host) -> None:
    code = (
        "import asyncio\nfrom hostagent.edges.netlink import KernelAddresses\n"
        "try: asyncio.run(KernelAddresses.open())\nexcept Exception as exc: print(exc)"
    )
    import sys

    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")
    assert "CAP_NET_ADMIN" in host.sh(*nobody, sys.executable, "-c", code)
