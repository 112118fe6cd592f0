"""The session's keeper against an API that holds replies back: refutations leave at once, and none is lost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_interface
from typing import Any

import pytest
from aiohttp import web

from hostagent.agent import session as keeping
from hostagent.agent.session import SessionKeeper, own_session
from hostagent.edges.kube.leases import Leases
from hostagent.model.errors import ConfigError
from hostagent.model.names import InterfaceName, Mac, NodeName
from hostagent.model.ownership import Segment
from tests.kube.conftest import until
from tests.kube.fake_api import api_at, failure, serve

pytestmark = pytest.mark.kube

ME, RIVAL = NodeName("h1"), NodeName("h2")
SEGMENT = Segment(
    interface=InterfaceName("eth0"), mac=Mac("02:00:00:00:00:01"), subnets=(ip_interface("192.0.2.1/24"),)
)


class Store:
    """One Lease with compare-and-swap, as an API server has it; writes can be held back."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 100
        self.writes = 0
        self.open = asyncio.Event()
        self.open.set()

    def put(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.lease = lease
        return lease

    def note(self, by: NodeName) -> str:
        """A rival's note; the version that the watch would tell."""
        assert self.lease is not None
        lease: dict[str, Any] = json.loads(json.dumps(self.lease))
        lease["metadata"]["annotations"]["hostagent.io/suspected-by"] = by
        return str(self.put(lease)["metadata"]["resourceVersion"])

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.lease["metadata"]["annotations"]) if self.lease else {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response(self.lease) if self.lease else failure(404, "NotFound")
        lease = await request.json()
        self.writes += 1
        await self.open.wait()
        present = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if lease["metadata"].get("resourceVersion") != present:
            return failure(409, "Conflict")
        return web.json_response(self.put(lease))


@asynccontextmanager
async def kept(store: Store) -> AsyncIterator[tuple[SessionKeeper, list[str], list[ConfigError]]]:
    """A keeper that runs, its first renewal done, the versions of its renewals, and why it ended if it did."""
    renewed: list[str] = []
    lost: list[ConfigError] = []
    async with serve(store.answer) as fake, api_at(fake.url) as api:
        leases = Leases(api, namespace="default", node=ME)
        session = own_session(
            node=ME, instance="boot-1", duration_s=15.0, version="1", allocator=True, segments=(SEGMENT,)
        )
        keeper = SessionKeeper(leases, session, renew_s=60.0, on_renewed=lambda version, _: renewed.append(version))
        running = asyncio.create_task(keeper.run(lost.append))
        try:
            await until(lambda: len(renewed) == 1)
            yield keeper, renewed, lost
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


def test_a_refutation_leaves_at_once_and_takes_the_note_off(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        store = Store()
        async with kept(store) as (keeper, renewed, _):
            version = store.note(RIVAL)
            keeper.refute(RIVAL, version=version)
            await until(lambda: len(renewed) == 2, within_s=1.0)
            assert "hostagent.io/suspected-by" not in store.annotations
            assert (store.writes, keeper.refutations) == (2, 1)
            keeper.refute(RIVAL, version=store.note(RIVAL))
            await until(lambda: len(renewed) == 3, within_s=1.0)
            assert keeper.refutations == 2
            assert renewed == sorted(set(renewed), key=int)

    with caplog.at_level(logging.INFO, logger="hostagent"):
        asyncio.run(asyncio.wait_for(body(), 20))
    assert [r.getMessage().partition(":")[0] for r in caplog.records if "suspects" in r.getMessage()] == [
        "h2 got no answer from this host's VIPs and suspects it to be dead"
    ]


def test_each_suspecter_is_told_of_once_and_again_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        store = Store()
        async with kept(store) as (keeper, _, _):
            for by in (RIVAL, NodeName("h3"), RIVAL):
                before = keeper.refutations
                keeper.refute(by, version=store.note(by))
                await until(lambda before=before: keeper.refutations > before)  # type: ignore[misc]
            monkeypatch.setattr(keeping, "REFUTED_TOLD_S", 0.0)
            keeper.refute(RIVAL, version=store.note(RIVAL))
            await until(lambda: keeper.refutations == 4)

    with caplog.at_level(logging.INFO, logger="hostagent"):
        asyncio.run(asyncio.wait_for(body(), 20))
    told = [r.getMessage().split()[0] for r in caplog.records if "suspects" in r.getMessage()]
    assert told == ["h2", "h3", "h2"]


def test_a_refutation_without_the_notes_version_is_written_again() -> None:
    async def body() -> None:
        store = Store()
        async with kept(store) as (keeper, renewed, _):
            store.note(RIVAL)
            keeper.refute(RIVAL)
            await until(lambda: len(renewed) == 2, within_s=1.0)
            assert "hostagent.io/suspected-by" not in store.annotations
            assert store.writes == 3

    asyncio.run(asyncio.wait_for(body(), 20))


def test_a_refutation_does_not_wait_for_a_renewal_under_way() -> None:
    async def body() -> None:
        store = Store()
        async with kept(store) as (keeper, renewed, _):
            store.open.clear()
            keeper.renew_soon()
            await until(lambda: store.writes == 2)
            keeper.refute(RIVAL, version=store.note(RIVAL))
            await until(lambda: store.writes == 3, within_s=0.5)
            store.open.set()
            await until(lambda: len(renewed) == 3)
            assert "hostagent.io/suspected-by" not in store.annotations
            assert keeper.refutations == 1
            assert keeper.session.resource_version in renewed

    asyncio.run(asyncio.wait_for(body(), 20))


def test_a_change_during_a_renewal_is_told_by_the_next() -> None:
    """Also when an older renewal is written again on top of a newer one: the last word has it."""

    async def body() -> None:
        store = Store()
        async with kept(store) as (keeper, _, _):
            store.open.clear()
            keeper.refute(RIVAL, version=store.note(RIVAL))
            await until(lambda: store.writes == 2)
            keeper.describe(draining=True)
            await until(lambda: store.writes == 3)
            store.open.set()
            await until(lambda: store.annotations.get("hostagent.io/draining") == "true")
            keeper.describe((), draining=False)
            await until(lambda: "hostagent.io/draining" not in store.annotations)
            assert store.annotations["hostagent.io/segments"] == "[]"
            assert keeper.session.segments == ()

    asyncio.run(asyncio.wait_for(body(), 20))


def test_describing_what_is_so_already_writes_nothing() -> None:
    async def body() -> None:
        store = Store()
        async with kept(store) as (keeper, _, _):
            keeper.describe((SEGMENT,), draining=False)
            keeper.describe()
            assert not keeper._soon.is_set()

    asyncio.run(asyncio.wait_for(body(), 20))


def test_another_host_under_this_name_ends_it() -> None:
    async def body() -> None:
        store = Store()
        async with kept(store) as (keeper, _, lost):
            assert store.lease is not None
            store.lease["spec"]["holderIdentity"] = f"{ME}/boot-2"
            store.put(store.lease)
            keeper.renew_soon()
            await until(lambda: lost != [])
            assert "another host runs hostagent as node h1 (its session is boot-2)" in str(lost[0])

    asyncio.run(asyncio.wait_for(body(), 20))
