"""What API servers can do to a request, with several endpoints and with one; and to the credentials it is sent with."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web

from hostagent.edges.kube.clock import boottime
from hostagent.edges.kube.credentials import Credentials
from hostagent.edges.kube.transport import LOOK_AGAIN_S, Api, ApiError
from hostagent.edges.kube.wire import Lane
from hostagent.model.names import Instant
from tests.kube.conftest import beside, until
from tests.kube.fake_api import Watcher, api_at, events, failure, item, listing, play, serve


def test_an_endpoint_that_refuses_is_passed_over_and_remembered() -> None:
    async def body() -> None:
        async def script(_: web.Request) -> web.StreamResponse:
            return web.Response(text="ok")

        async with serve(script) as fake, api_at("http://127.0.0.1:9", fake.url) as api:
            assert await api.request("PUT", "/x", body=b"{}") == b"ok"
            assert api.server == fake.url
            assert api.unreachable_since is None
            assert api.last_ok is not None

    play(body())


def test_a_write_without_a_reply_is_not_sent_twice() -> None:
    async def body() -> None:
        async def script(_: web.Request) -> web.StreamResponse:
            await first.dead.wait()
            return web.Response()

        async with serve(script) as first, serve(script) as second, api_at(first.url, second.url) as api:
            with pytest.raises(ApiError, match="no answer in time") as caught:
                await api.request("PUT", "/x", body=b"{}", timeout_s=0.2)
            assert caught.value.unanswered
            assert (len(first.seen), len(second.seen)) == (1, 0)
            assert api.unreachable_since is not None
            assert api.server == second.url

    play(body())


def test_being_asked_to_wait_reaches_the_caller() -> None:
    async def body() -> None:
        async def script(_: web.Request) -> web.StreamResponse:
            return failure(429, "TooManyRequests", "slow down", **{"Retry-After": "3"})

        async with serve(script) as fake, api_at(fake.url) as api:
            with pytest.raises(ApiError, match="slow down") as caught:
                await api.request("GET", "/x")
            assert (caught.value.status, caught.value.retry_after_s) == (429, 3.0)

    play(body())


def test_when_no_endpoint_answers_the_error_names_them_all() -> None:
    async def body() -> None:
        async with api_at("http://127.0.0.1:9", "http://127.0.0.1:19") as api:
            with pytest.raises(ApiError, match=r"127\.0\.0\.1:9: .*; .*127\.0\.0\.1:19: ") as caught:
                await api.request("PUT", "/x", body=b"{}")
            assert not caught.value.unanswered

    play(body())


def test_refused_credentials_are_loaded_again_once() -> None:
    async def body() -> None:
        async def script(request: web.Request) -> web.StreamResponse:
            good = request.headers.get("Authorization") == "Bearer new"
            await asyncio.sleep(0.05)
            return web.Response(text="ok") if good else failure(401, "Unauthorized")

        async with serve(script) as fake:
            loads = 0

            async def load() -> Credentials:
                nonlocal loads
                loads += 1
                return Credentials(servers=(fake.url,), tls=None, authorization="Bearer new")

            old = Credentials(servers=(fake.url,), tls=None, authorization="Bearer old")
            api = Api(old, load, user_agent="hostagent/test")
            answers = await asyncio.gather(*(api.request("GET", "/x") for _ in range(5)))
            await api.close()
            assert answers == [b"ok"] * 5
            assert loads == 1
            assert "Bearer" not in repr(old)

    play(body())


@pytest.mark.parametrize("unfit", [401, 500, 503])
def test_one_endpoint_that_cannot_serve_us_keeps_nobody_from_the_other(unfit: int) -> None:
    """It does not know who issued our credentials, or has no etcd. Watches that run at the other one go on."""

    async def body() -> None:
        async def works(request: web.Request) -> web.StreamResponse:
            if request.path == "/fails":
                return failure(500)
            if "watch" in request.query:
                return await events(request, then="silence", fake=second)
            return listing("7", item("a", "1"))

        async def refuses(_: web.Request) -> web.StreamResponse:
            return failure(unfit)

        async with serve(refuses) as first, serve(works) as second, api_at(first.url, second.url) as api:
            if unfit != 401:  # it may have acted: the caller decides, and asks somebody else
                with pytest.raises(ApiError):
                    await api.request("GET", "/x")
            watcher = Watcher(api)

            async def others_ask() -> None:
                await until(lambda: len(second.seen) == 2)
                with pytest.raises(ApiError):
                    await api.request("GET", "/fails")
                if unfit != 401:
                    with pytest.raises(ApiError):
                        await api.request("GET", "/x")
                for _ in range(3):
                    assert json.loads(await api.request("GET", "/x"))["items"]

            await beside(watcher.run(), others_ask)
            assert len(first.seen) == 2
            assert [query.get("watch") for _, _, query in second.seen] == [None, "1", None, None, None, None]

    play(body())


def test_credentials_that_everybody_refuses_are_said_to_be_refused_and_looked_for_now_and_then() -> None:
    async def body() -> None:
        async def refuses(_: web.Request) -> web.StreamResponse:
            return failure(401, "Unauthorized")

        async with serve(refuses) as first, serve(refuses) as second:
            creds = Credentials(servers=(first.url, second.url), tls=None, authorization="Bearer old")
            loads, clock = 0, 100.0

            async def load() -> Credentials:
                nonlocal loads
                loads += 1
                return replace(creds, expires_at=Instant(clock + 60 * loads))

            api = Api(creds, load, user_agent="hostagent/test", now=lambda: Instant(clock))
            for _ in range(5):
                with pytest.raises(ApiError, match="Unauthorized"):
                    await api.request("PUT", "/x", body=b"{}")
            assert (loads, len(first.seen), len(second.seen)) == (1, 5, 5)
            assert api.credentials is creds
            clock += LOOK_AGAIN_S
            with pytest.raises(ApiError, match="Unauthorized"):
                await api.request("GET", "/x")
            assert loads == 2
            await api.close()

    play(body())


def test_a_plugin_whose_every_token_is_refused_ends_in_an_error() -> None:
    async def body() -> None:
        async def refuses(_: web.Request) -> web.StreamResponse:
            return failure(401, "Unauthorized")

        async with serve(refuses) as fake:
            creds = Credentials(servers=(fake.url,), tls=None, authorization="Bearer 0")

            async def load() -> Credentials:
                return replace(creds, authorization=f"Bearer {len(fake.seen)}")

            api = Api(creds, load, user_agent="hostagent/test")
            with pytest.raises(ApiError, match="Unauthorized"):
                await api.request("GET", "/x")
            assert len(fake.seen) == 2
            await api.close()

    play(body())


def test_a_token_is_renewed_before_it_expires_and_no_request_waits() -> None:
    async def body() -> None:
        async def script(request: web.Request) -> web.StreamResponse:
            return web.Response(text=request.headers["Authorization"])

        async with serve(script) as fake:

            async def load() -> Credentials:
                return Credentials(servers=(fake.url,), tls=None, authorization="new")

            soon = Instant(boottime() + 30)
            old = Credentials(servers=(fake.url,), tls=None, authorization="old", expires_at=soon)
            api = Api(old, load, user_agent="hostagent/test")
            assert await api.request("GET", "/x") == b"old"
            await until(lambda: api.credentials is not old)
            assert await api.request("GET", "/x") == b"new"
            await api.close()

    play(body())


def test_a_busy_bulk_lane_does_not_delay_a_renewal() -> None:
    async def body() -> None:
        async def script(request: web.Request) -> web.StreamResponse:
            if request.path != "/session":
                await fake.dead.wait()
            return web.Response(text="ok")

        async with serve(script) as fake, api_at(fake.url) as api:
            stuck = [asyncio.create_task(api.request("GET", "/x", timeout_s=30, lane=Lane.CLAIMS)) for _ in range(100)]
            await until(lambda: len(fake.seen) == 16)
            assert await api.request("PUT", "/session", body=b"{}", timeout_s=0.5, lane=Lane.SESSION) == b"ok"
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)

    play(body())
