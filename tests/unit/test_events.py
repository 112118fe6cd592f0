"""Which Events are told first, and which are given up."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from hostagent.edges.kube.events import WAITING, Events, Subject
from hostagent.edges.kube.transport import Api

SUBJECT = Subject(api_version="v1", kind="Service", namespace="shop", name="web", uid="1")


class Recorder:
    """Takes every request, as the API would."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.three = asyncio.Event()

    async def request(self, *_: str, body: bytes) -> bytes:
        self.bodies.append(json.loads(body))
        if len(self.bodies) == 3:
            self.three.set()
        return b"{}"


def test_a_warning_does_not_wait_behind_hundreds_of_moved_vips_and_is_not_given_up_for_them() -> None:
    recorder = Recorder()

    async def body() -> None:
        events = Events(cast("Api", recorder), node="h1")
        for number in range(WAITING + 10):
            events.emit(SUBJECT, reason="nodeAssigned", message=f"vip {number}")
        events.emit(SUBJECT, reason="AddressInUse", message="a stranger", warning=True)
        assert events.dropped == 10
        sending = asyncio.create_task(events.run())
        await recorder.three.wait()
        sending.cancel()

    asyncio.run(asyncio.wait_for(body(), 10))
    assert [told["reason"] for told in recorder.bodies[:3]] == ["AddressInUse", "nodeAssigned", "nodeAssigned"]
    assert [told["message"] for told in recorder.bodies[1:3]] == ["vip 0", "vip 1"]
