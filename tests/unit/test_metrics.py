"""What a scrape says, and that metrics that cannot be served cost nothing else."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hostagent.model.names import InterfaceName
from hostagent.model.ownership import Why, Write
from hostagent.telemetry import metrics
from hostagent.telemetry.metrics import CONNECTIONS, Snapshot, listening, serve
from tests.unit.builders import a_snapshot


@asynccontextmanager
async def served(snapshot: Snapshot) -> AsyncIterator[str]:
    async with listening("127.0.0.1", 0, lambda: snapshot) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"


def scraped(snapshot: Snapshot) -> dict[tuple[str, ...], float]:
    """Our samples: name and label values, by the labels' names, to value."""

    async def scrape() -> str:
        async with served(snapshot) as url, aiohttp.ClientSession() as client, client.get(url) as reply:
            assert reply.content_type == "text/plain"
            return await reply.text()

    families = text_string_to_metric_families(asyncio.run(scrape()))
    samples = [sample for family in families for sample in family.samples]
    assert any(sample.name == "process_resident_memory_bytes" for sample in samples)
    return {
        (
            sample.name.removeprefix("hostagent_"),
            *(sample.labels[label] for label in sorted(sample.labels)),
        ): sample.value
        for sample in samples
        if sample.name.startswith("hostagent_")
    }


def test_a_scrape_tells_what_the_snapshot_says() -> None:
    held = {ip_address(ip): InterfaceName("eth0") for ip in ("198.51.100.64", "2001:db8::1")}
    found = scraped(
        a_snapshot(
            vips=5,
            held=held,
            moves={Why.FREE: 2, Why.DEAD: 1},
            claim_writes={Write.WON: 7},
            suspicions=3,
            suspicions_refuted=1,
            session_renewed_ago_s=1.5,
            allocator_leads=True,
            config_errors=4,
        )
    )
    assert found["build_info", "h1", "1.2.3"] == 1
    assert (found["vips",], found["vips_held",]) == (5, 2)
    assert found["vip_info", "eth0", "2001:db8::1"] == 1
    assert (found["moves_total", "free"], found["moves_total", "holder-dead"]) == (2, 1)
    assert (found["claim_writes_total", "won"], found["claim_writes_total", "lost"]) == (7, 0)
    assert (found["suspicions_total", "suspected"], found["suspicions_total", "refuted"]) == (3, 1)
    assert (found["session_renewed_ago_seconds",], found["allocator_leads",], found["api_reachable",]) == (1.5, 1, 1)
    assert (found["config_faults", "error"], found["config_faults", "warning"]) == (4, 0)


def test_what_is_not_known_is_not_told() -> None:
    assert ("session_renewed_ago_seconds",) not in scraped(a_snapshot(session_renewed_ago_s=None))


def test_each_scrape_is_fresh() -> None:
    async def scenario() -> None:
        now = a_snapshot(vips=1)
        async with listening("127.0.0.1", 0, lambda: now) as server, aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
            for vips in (1, 2):
                now = replace(now, vips=vips)
                async with client.get(url) as reply:
                    assert f"hostagent_vips {vips}.0" in await reply.text()

    asyncio.run(scenario())


def test_a_crowd_of_connections_is_hung_up_on_and_those_before_are_served() -> None:
    async def scenario() -> None:
        async with served(a_snapshot()) as url, aiohttp.ClientSession() as client:
            port = int(url.split(":")[2].split("/")[0])
            streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
            with pytest.raises(aiohttp.ClientError):
                await client.get(url)
            reader, writer = streams[0]
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readline()
            for _, writer in streams:
                writer.close()

    asyncio.run(scenario())


def test_a_port_in_use_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "RETRY_S", 0.0)
    caplog.set_level(logging.INFO, logger="hostagent")
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]

    async def lines(number: int) -> None:
        while len(caplog.records) < number:  # noqa: ASYNC110  (a log has no event to wait for)
            await asyncio.sleep(0)

    async def scenario() -> None:
        task = asyncio.create_task(serve("127.0.0.1", port, a_snapshot))
        async with asyncio.timeout(10):
            await lines(1)
            for _ in range(50):  # tried again a few times, silently
                await asyncio.sleep(0)
            taken.close()
            await lines(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    where = f"http://127.0.0.1:{port}/metrics"
    assert [record.getMessage() for record in caplog.records] == [
        f"no metrics, as {where} cannot be listened at: Address already in use",
        f"metrics are at {where}",
    ]
