from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

import pytest

from hostagent.edges.nft import Guard
from hostagent.model.cluster import Port
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP

from .conftest import Host

V4, V6 = ip_address("192.0.2.100"), ip_address("2001:db8::100")
BOTH = pytest.mark.parametrize("vip", [V4, V6], ids=["v4", "v6"])
HTTP, SSH, DNS = Port("tcp", 80), Port("tcp", 22), Port("udp", 53)

Wanted = Mapping[IP, frozenset[Port]]


@pytest.fixture
def holder(host: Host, client: Host) -> Host:
    """A host with the VIPs on its interface; the client knows where they are."""
    host.sh("ip", "address", "add", f"{V4}/32", "dev", "eth0")
    host.sh("ip", "address", "add", f"{V6}/128", "dev", "eth0", "nodad", "preferred_lft", "0")
    client.sh("ping", "-c1", "-W2", str(V4))
    return host


@contextlib.contextmanager
def listeners(host: Host, *ports: Port) -> Iterator[None]:
    """The host's own sockets, on all its addresses, answering with one letter."""
    with contextlib.ExitStack() as stack:

        def listen() -> None:
            for port in ports:
                stream = port.protocol == "tcp"
                sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
                stack.enter_context(sock)
                sock.bind(("::", port.number))
                if stream:
                    sock.listen()

        host.call(listen)
        yield


def connects(client: Host, vip: IP, port: Port, timeout: float = 0.5) -> bool:
    def attempt() -> bool:
        try:
            with socket.create_connection((str(vip), port.number), timeout):
                return True
        except TimeoutError:
            return False

    return client.call(attempt)


def with_guard(host: Host, *wanted: Wanted) -> Wanted | None:
    """Let one guard ensure each of these in turn; what it reads in the end."""

    async def main() -> Wanted | None:
        guard = Guard()
        for each in wanted:
            await guard.ensure(each)
        return await guard.read()

    return host.run(main)


@BOTH
def test_the_services_port_is_open_and_the_hosts_own_are_not(holder: Host, client: Host, vip: IP) -> None:
    with listeners(holder, HTTP, SSH):
        assert connects(client, vip, SSH)  # without a guard
        with_guard(holder, {V4: frozenset({HTTP}), V6: frozenset({HTTP})})
        assert connects(client, vip, HTTP)
        assert not connects(client, vip, SSH)
        own = ip_address("192.0.2.1" if vip.version == 4 else "2001:db8::1")
        assert connects(client, own, SSH)  # only VIPs are guarded


@BOTH
def test_udp_is_guarded_as_tcp(holder: Host, client: Host, vip: IP) -> None:
    def ask(*ports: int) -> None:
        with socket.socket(socket.AF_INET6 if vip.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in ports:
                sock.sendto(b"?", (str(vip), port))

    with_guard(holder, {V4: frozenset({DNS}), V6: frozenset({DNS})})
    sockets: list[socket.socket] = []

    def listen() -> None:
        for number in (53, 54):
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.bind(("::", number))
            sock.settimeout(0.5)
            sockets.append(sock)

    holder.call(listen)
    try:
        client.call(lambda: ask(54, 53))
        assert sockets[0].recv(1) == b"?"
        with pytest.raises(TimeoutError):
            sockets[1].recv(1)
    finally:
        for sock in sockets:
            sock.close()


@BOTH
def test_ping_and_address_resolution_work_on_a_closed_vip(holder: Host, client: Host, vip: IP) -> None:
    with_guard(holder, {V4: frozenset(), V6: frozenset()})
    client.sh("ip", "neigh", "flush", "dev", "eth0")
    client.sh("ping", "-c1", "-W2", str(vip))
    mac = holder.mac
    client.sh("ip", "neigh", "replace", str(vip), "lladdr", mac, "dev", "eth0", "nud", "probe")  # asked by unicast
    client.sh("ping", "-c1", "-W2", str(vip))
    assert "FAILED" not in client.sh("ip", "neigh", "show", str(vip))


def test_a_port_that_goes_is_closed_and_a_vip_that_goes_is_forgotten(holder: Host, client: Host) -> None:
    with listeners(holder, HTTP, SSH):
        read = with_guard(holder, {V4: frozenset({HTTP, SSH}), V6: frozenset({HTTP})}, {V4: frozenset({HTTP})})
        assert read == {V4: frozenset({HTTP})}
        assert connects(client, V4, HTTP)
        assert not connects(client, V4, SSH)
        assert connects(client, V6, SSH)


def test_what_was_refused_is_counted(holder: Host, client: Host) -> None:
    async def main() -> int:
        guard = Guard()
        await guard.ensure({V4: frozenset()})
        await asyncio.to_thread(connects, client, V4, HTTP, 0.1)
        return await guard.refused()

    assert holder.run(main) >= 1


def test_kube_proxys_translation_comes_first(holder: Host, client: Host) -> None:
    """A NodePort-like DNAT in prerouting, as both modes of kube-proxy do it: the guard never sees such a packet."""
    rule = f"""table ip t {{
        chain c {{
            type nat hook prerouting priority dstnat;
            ip daddr {V4} tcp dport 443 dnat to 192.0.2.1:80
        }}
    }}"""
    holder.sh("nft", "-f", "-", stdin=rule)
    with listeners(holder, HTTP):
        with_guard(holder, {V4: frozenset()})
        assert connects(client, V4, Port("tcp", 443))
        assert not connects(client, V4, HTTP)


def test_the_second_time_nothing_is_written_and_then_only_what_differs(host: Host) -> None:
    wanted = {V4: frozenset({HTTP, DNS, Port("sctp", 9)}), V6: frozenset({HTTP})}

    async def main() -> None:
        guard = Guard()
        await guard.ensure(wanted)
        before = host.sh("nft", "--handle", "list", "ruleset")
        await guard.ensure(wanted)
        assert host.sh("nft", "--handle", "list", "ruleset") == before
        rules = host.sh("nft", "--handle", "list", "chain", "inet", "hostagent", "vip6")
        await guard.ensure({**wanted, V6: frozenset()})
        assert host.sh("nft", "--handle", "list", "chain", "inet", "hostagent", "vip6") == rules  # not made anew
        assert await guard.read() == {**wanted, V6: frozenset()}

    host.run(main)


@pytest.mark.parametrize(
    "edit",
    [
        "flush ruleset",
        "flush chain inet hostagent vip4",
        "insert rule inet hostagent input accept",
        "add element inet hostagent services4 { 192.0.2.77 . tcp . 22 }",
        "delete element inet hostagent vips4 { 192.0.2.100 }",
    ],
)
def test_what_others_edited_is_made_whole(host: Host, edit: str) -> None:
    wanted = {V4: frozenset({HTTP})}

    def shown() -> str:
        return host.sh("nft", "list", "ruleset")

    async def main() -> None:
        guard = Guard()
        await guard.ensure(wanted)
        whole = shown()
        host.sh("nft", edit)
        assert shown() != whole
        await guard.ensure(wanted)
        assert shown() == whole

    host.run(main)


def test_another_tables_rules_are_left_alone(host: Host) -> None:
    host.sh("nft", "add table inet other; add chain inet other c { type filter hook input priority 0; }")

    async def main() -> None:
        guard = Guard()
        await guard.ensure({V4: frozenset()})
        await guard.remove()
        await guard.remove()
        assert await guard.read() is None

    host.run(main)
    assert host.sh("nft", "list", "tables") == "table inet other\n"


def test_a_change_interrupts_nothing(holder: Host, client: Host) -> None:
    """While the guard rebuilds its table again and again, no packet finds the door open or the Service closed."""
    with listeners(holder, HTTP, SSH):

        async def main() -> None:
            guard = Guard()
            await guard.ensure({V4: frozenset({HTTP})})

            def attempts() -> None:
                for _ in range(10):
                    assert connects(client, V4, HTTP)
                    assert not connects(client, V4, SSH, timeout=0.05)

            running = asyncio.create_task(asyncio.to_thread(attempts))
            while not running.done():
                await Guard().ensure({V4: frozenset({HTTP})})
            await running

        holder.run(main)


def test_many_vips(host: Host) -> None:
    wanted = {ip_address("198.18.0.0") + n: frozenset({HTTP, DNS}) for n in range(3000)}
    assert with_guard(host, wanted) == wanted


def test_the_agents_user_needs_one_ambient_capability(host: Host) -> None:
    code = (
        "import asyncio\nfrom ipaddress import ip_address\nfrom hostagent.edges.nft import Guard\n"
        "async def main():\n g = Guard()\n await g.ensure({ip_address('192.0.2.100'): frozenset()})\n"
        " print(await g.read())\n"
        "try: asyncio.run(main())\nexcept Exception as exc: print(exc)"
    )
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
    capable = ("--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--bounding-set=-all,+net_admin")
    assert "192.0.2.100" in host.sh(*user, *capable, sys.executable, "-c", code)
    assert "CAP_NET_ADMIN" in host.sh(*user, sys.executable, "-c", code)


def test_a_refused_ruleset_changes_nothing(host: Host) -> None:
    async def main() -> None:
        guard = Guard()
        await guard.ensure({V4: frozenset({HTTP})})
        with pytest.raises(EdgeError, match="nft"):
            await guard.ensure({V4: frozenset({Port("nonsense", 1)}), V6: frozenset()})
        assert await guard.read() == {V4: frozenset({HTTP})}

    host.run(main)


@pytest.mark.parametrize("prefixes", [("203.0.113.5/32",), ("203.0.113.0/24", "203.0.113.5/32", "2001:db8:1::/64")])
def test_what_is_advertised_and_goes_to_no_pod_is_not_sent_back(
    host: Host, client: Host, prefixes: tuple[str, ...]
) -> None:
    """The host's default route leads to the router that the packet came from."""
    host.sh("sysctl", "-qw", "net.ipv4.ip_forward=1")
    host.sh("ip", "route", "add", "default", "via", "192.0.2.2")
    client.sh("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.1")

    async def guarded() -> int:
        guard = Guard()
        await guard.ensure({}, routed=map(ip_network, prefixes))
        await guard.ensure({}, routed=map(ip_network, prefixes))  # reads back what it wrote
        client.call(send)
        return await guard.refused()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"?", ("203.0.113.5", 9))

    assert host.run(guarded) == 1


def test_one_vip_among_others_is_opened_and_closed_alone(holder: Host, client: Host) -> None:
    async def main(guard: Guard, change: Mapping[IP, frozenset[Port] | None]) -> Wanted | None:
        await guard.ensure({V6: frozenset({HTTP})})
        await guard.change(change)
        return await guard.read()

    with listeners(holder, HTTP, SSH):
        for ports in (frozenset({HTTP, SSH}), frozenset({HTTP})):
            guard = Guard()
            assert holder.run(lambda guard=guard, ports=ports: main(guard, {V4: ports})) == {  # type: ignore[misc]
                V4: ports,
                V6: frozenset({HTTP}),
            }
            assert connects(client, V4, HTTP)
            assert connects(client, V4, SSH) is (SSH in ports)
        assert holder.run(lambda: main(Guard(), {V4: None, V6: None})) == {}
        assert connects(client, V6, SSH)


@pytest.mark.parametrize("spoiled", ["delete table inet hostagent", f"delete element inet hostagent vips4 {{ {V4} }}"])
def test_a_change_to_what_somebody_took_away_is_refused_and_all_is_made_anew(holder: Host, spoiled: str) -> None:
    async def main() -> Wanted | None:
        guard = Guard()
        await guard.ensure({V4: frozenset({HTTP})})
        holder.sh("nft", spoiled)
        for _ in range(2):
            with pytest.raises(EdgeError):
                await guard.change({V4: None, V6: frozenset({HTTP})})
        await guard.ensure({V6: frozenset({HTTP})})
        await guard.change({V4: frozenset({SSH})})
        return await guard.read()

    assert holder.run(main) == {V6: frozenset({HTTP}), V4: frozenset({SSH})}
