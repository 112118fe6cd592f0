from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest

from hostagent.edges.netlink import KernelRoutes
from hostagent.model.errors import EdgeError
from hostagent.model.names import Network

from .conftest import Host

TABLE, PROTOCOL = 174, 74
V4, V6 = ip_network("203.0.113.1/32"), ip_network("2001:db8:64::1/128")
WIDE4, WIDE6 = ip_network("203.0.113.0/24"), ip_network("2001:db8:64::/64")


@contextlib.asynccontextmanager
async def routes(table: int = TABLE) -> AsyncIterator[KernelRoutes]:
    kernel = await KernelRoutes.open(table, PROTOCOL)
    try:
        yield kernel
    finally:
        await kernel.close()


def shown(host: Host, family: int, table: int = TABLE) -> list[dict[str, Any]]:
    text = host.sh("ip", "-json", f"-{family}", "route", "show", "table", str(table), check=False)
    found: list[dict[str, Any]] = json.loads(text or "[]")
    return found


def test_a_route_carries_its_class_as_metric_and_is_marked_as_ours(host: Host) -> None:
    async def main() -> None:
        async with routes() as kernel:
            await kernel.change(add={V4: 40_000, V6: 65_535, WIDE4: 7, WIDE6: 8})
            assert await kernel.present() == {V4: 40_000, V6: 65_535, WIDE4: 7, WIDE6: 8}

    host.run(main)
    (one,) = [each for each in shown(host, 4) if each["dst"] == "203.0.113.1"]
    assert (one["dev"], one["protocol"], one["metric"]) == ("lo", "74", 40_000)
    (one,) = [each for each in shown(host, 6) if each["dst"] == "2001:db8:64::1"]
    assert (one["dev"], one["protocol"], one["metric"]) == ("lo", "74", 65_535)


def test_routes_outlive_their_maker_and_are_found_again(host: Host) -> None:
    async def main() -> None:
        async with routes() as former:
            await former.change(add={V4: 5, V6: 5})
        async with routes() as kernel:
            assert await kernel.present() == {V4: 5, V6: 5}
            await kernel.change(add={}, remove=frozenset({V4, V6}))
            assert await kernel.present() == {}

    host.run(main)


def test_another_class_replaces_the_route_of_the_old_one(host: Host) -> None:
    async def main() -> None:
        async with routes() as kernel:
            await kernel.change(add={V4: 5, V6: 5})
            await kernel.change(add={V4: 6, V6: 4})
            assert await kernel.present() == {V4: 6, V6: 4}

    host.run(main)
    assert [each["metric"] for each in shown(host, 4) + shown(host, 6)] == [6, 4]


def test_what_an_interrupted_change_left_is_tidied_up(host: Host) -> None:
    for metric in ("5", "6"):
        host.sh(
            "ip", "route", "add", str(V4), "dev", "lo", "table", str(TABLE), "proto", str(PROTOCOL), "metric", metric
        )

    async def main() -> None:
        async with routes() as kernel:
            assert await kernel.present() == {V4: 5}
            await kernel.change(add={V4: 6})
            assert await kernel.present() == {V4: 6}
            await kernel.change(add={}, remove=frozenset({V4}))

    host.run(main)
    assert shown(host, 4) == []


def test_making_it_so_twice_is_the_same_as_once(host: Host) -> None:
    async def main() -> None:
        async with routes() as kernel:
            await kernel.change(add={V4: 5})
            await kernel.change(add={V4: 5})
            assert await kernel.present() == {V4: 5}
            await kernel.change(add={}, remove=frozenset({V4}))
            await kernel.change(add={}, remove=frozenset({V4}))
            assert await kernel.present() == {}

    host.run(main)


def test_routes_of_others_are_neither_seen_nor_touched(host: Host) -> None:
    host.sh("ip", "route", "add", str(V4), "dev", "lo", "table", str(TABLE), "proto", "static", "metric", "5")
    host.sh("ip", "route", "add", str(WIDE4), "dev", "lo", "table", "175", "proto", str(PROTOCOL), "metric", "5")
    host.sh("ip", "route", "add", str(WIDE4), "dev", "lo", "proto", str(PROTOCOL), "metric", "5")

    async def main() -> None:
        async with routes() as kernel:
            assert await kernel.present() == {}
            await kernel.change(add={}, remove=frozenset({V4, WIDE4}))

    host.run(main)
    assert [each["protocol"] for each in shown(host, 4)] == ["static"]
    assert len(shown(host, 4, 175)) == 1
    assert any(each["dst"] == str(WIDE4) for each in shown(host, 4, 254))


def test_what_others_take_away_or_put_there_in_our_name_is_seen(host: Host) -> None:
    def ip(verb: str, metric: int) -> None:
        host.sh("ip", "route", verb, str(V4), "dev", "lo", "table", str(TABLE), "proto", "74", "metric", str(metric))

    async def main() -> None:
        async with routes() as kernel:
            await kernel.change(add={V4: 5, WIDE4: 7})
            assert await kernel.present() == {V4: 5, WIDE4: 7}
            ip("add", 4)
            assert await kernel.present() == {V4: 4, WIDE4: 7}
            ip("del", 4)
            assert await kernel.present() == {V4: 5, WIDE4: 7}
            ip("del", 5)
            assert await kernel.present() == {WIDE4: 7}

    host.run(main)


def test_a_large_table_number_is_honoured(host: Host) -> None:
    async def main() -> None:
        async with routes(70_000) as kernel:
            await kernel.change(add={V4: 5, V6: 5})
            assert await kernel.present() == {V4: 5, V6: 5}

    host.run(main)
    assert len(shown(host, 4, 70_000)) == 1


def test_a_route_that_is_touched_is_there_as_before(host: Host) -> None:
    async def main() -> None:
        async with routes() as kernel:
            await kernel.change(add={V4: 5, V6: 6})
            await kernel.touch({V4: 5, V6: 6})
            assert await kernel.present() == {V4: 5, V6: 6}

    host.run(main)


def test_ten_thousand_are_carried_out_and_read_back(host: Host) -> None:
    many: dict[Network, int] = {ip_network(((10 << 24) + n, 32)): n % 9 + 1 for n in range(10_000)}

    async def main() -> tuple[float, float]:
        async with routes() as kernel:
            began = time.monotonic()
            await kernel.change(add=many)
            added = time.monotonic()
            assert await kernel.present() == many
            read = time.monotonic()
            await kernel.change(add={}, remove=frozenset(many))
            assert await kernel.present() == {}
            return added - began, read - added

    took_s = host.run(main)
    print(f"added in {took_s[0] * 1000:.0f} ms, read in {took_s[1] * 1000:.0f} ms")


def test_a_refusal_names_the_route(host: Host) -> None:
    async def main() -> None:
        async with routes() as kernel:
            host.sh("ip", "link", "set", "lo", "down")
            with pytest.raises(EdgeError, match=r"route\.change 203\.0\.113\.1/32"):
                await kernel.change(add={V4: 5})

    host.run(main)
