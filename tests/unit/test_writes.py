"""The queue before the API: a few writes at a time, in order, and none that may not be written any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from hostagent.agent.writes import AT_ONCE, REFUSED_RETRY_S, UNKNOWN_RETRY_S, Writes
from hostagent.core.allocate import Decision, Outcome
from hostagent.edges.kube.status import ServiceStatus
from hostagent.model.cluster import Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import IP, ServiceKey
from hostagent.model.ownership import Write
from tests.unit.builders import a_key, a_service

DECISION = Decision(outcome=Outcome.CLEAR)


class Api:
    """Answers what it was told to, when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.most = 0
        self.may_answer = asyncio.Event()
        self.answer: tuple[Write, Service | None] | EdgeError | None = None
        self.over: list[tuple[str, float | None]] = []
        self.won: list[str] = []
        self.refused: list[str] = []
        self.writes = Writes(
            cast("ServiceStatus", self),
            won=lambda service, _, __: self.won.append(service.key.name),
            refused=self._refused,
            over=self._over,
        )
        self._under_way = 0

    async def write(self, service: Service, _: Sequence[IP], *, pool: str | None) -> tuple[Write, Service | None]:
        assert pool is None
        self.asked.append(service.key.name)
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        await self.may_answer.wait()
        self._under_way -= 1
        if isinstance(self.answer, EdgeError):
            raise self.answer
        return self.answer or (Write.WON, service)

    async def _refused(self, service: Service, _: EdgeError) -> None:
        self.refused.append(service.key.name)

    def _over(self, key: ServiceKey, retry_s: float | None) -> None:
        assert key not in self.writes
        self.over.append((key.name, retry_s))

    async def rest(self) -> None:
        while self.writes:  # noqa: ASYNC110  # a few turns of the loop, nothing is waited for
            await asyncio.sleep(0)


def test_a_thousand_are_written_in_order_and_sixteen_at_a_time() -> None:
    async def scenario() -> None:
        api = Api()
        names = [f"s{n:04}" for n in range(1000)]
        for name in names:
            api.writes.put(a_service(name), DECISION, may=lambda: True)
        await asyncio.sleep(0)
        assert (len(api.asked), all(a_key(name) in api.writes for name in names)) == (AT_ONCE, True)
        api.may_answer.set()
        await api.rest()
        assert (api.asked, sorted(api.won), api.most) == (names, names, AT_ONCE)
        assert sorted(api.over) == [(name, None) for name in names]
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "no writer waits for more"

    asyncio.run(scenario())


def test_what_comes_when_all_had_been_written_is_written_too() -> None:
    async def scenario() -> None:
        api = Api()
        api.may_answer.set()
        for name in ("a", "b"):
            api.writes.put(a_service(name), DECISION, may=lambda: True)
            await api.rest()
        assert api.won == ["a", "b"]

    asyncio.run(scenario())


def test_whether_it_may_be_written_is_asked_when_its_turn_has_come() -> None:
    async def scenario() -> None:
        api = Api()
        names = [f"s{n:02}" for n in range(AT_ONCE + 1)]
        leads = True
        for name in names:
            api.writes.put(a_service(name), DECISION, may=lambda: leads)
        await asyncio.sleep(0)
        leads = False
        api.may_answer.set()
        await api.rest()
        assert api.asked == names[:AT_ONCE]
        assert (names[AT_ONCE], None) in api.over

    asyncio.run(scenario())


def test_when_a_service_is_looked_at_again_depends_on_what_the_api_said() -> None:
    async def scenario() -> None:
        for answer, retry_s in (
            ((Write.LOST, None), None),  # it is gone
            ((Write.LOST, a_service("a")), UNKNOWN_RETRY_S),
            ((Write.UNKNOWN, None), UNKNOWN_RETRY_S),
            (EdgeError("service.status", "default/a", "no"), REFUSED_RETRY_S),
        ):
            api = Api()
            api.answer = answer
            api.may_answer.set()
            api.writes.put(a_service("a"), DECISION, may=lambda: True)
            await api.rest()
            assert (api.over, api.won) == ([("a", retry_s)], [])
            assert api.refused == (["a"] if isinstance(answer, EdgeError) else [])

    asyncio.run(scenario())
