"""What an API server can do to an informer, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from hostagent.edges.kube.decode import ObjectKey, object_key, to_meta
from hostagent.edges.kube.informer import Informer
from tests.kube.conftest import beside, until
from tests.kube.fake_api import PATH, Watcher, api_at, events, failure, item, listing, play, serve


def test_pages_are_read_to_the_last_before_anything_is_reported() -> None:
    async def body() -> None:
        async def script(request: web.Request) -> web.StreamResponse:
            if "watch" in request.query:
                return await events(request, then="silence", fake=fake)
            if request.query.get("continue") == "more":
                assert watcher.told == []
                return listing("7", item("b", "2"))
            assert request.query["limit"] == "500"
            return listing("7", item("a", "1"), more="more")

        async with serve(script) as fake, api_at(fake.url) as api:
            watcher = Watcher(api)
            await beside(watcher.run(), lambda: until(lambda: len(fake.seen) == 3))
            assert watcher.told == [("a", "1"), ("b", "2")]
            watch = fake.seen[2][2]
            assert watch["resourceVersion"] == "7"
            assert watch["allowWatchBookmarks"] == "true"
            assert 240 <= int(watch["timeoutSeconds"]) <= 300

    play(body())


def test_a_watch_that_ends_goes_on_from_the_last_version_bookmarks_included() -> None:
    async def body() -> None:
        async def script(request: web.Request) -> web.StreamResponse:
            if "watch" not in request.query:
                return listing("1", item("a", "1"))
            match request.query["resourceVersion"]:
                case "1":
                    return await events(request, ("MODIFIED", item("a", "5")))
                case "5":
                    return await events(request, ("BOOKMARK", item("", "9")), then="cut")
                case _:
                    return await events(request, ("DELETED", item("a", "10")), then="silence", fake=fake)

        async with serve(script) as fake, api_at(fake.url) as api:
            watcher = Watcher(api)
            await beside(watcher.run(), lambda: until(lambda: len(watcher.told) == 3))
            assert watcher.told == [("a", "1"), ("a", "5"), ("a", None)]
            assert [q.get("resourceVersion") for _, _, q in fake.seen] == [None, "1", "5", "9"]

    play(body())


@pytest.mark.parametrize("how", ["event", "status"])
def test_an_expired_version_lists_again_and_reports_the_difference(how: str) -> None:
    async def body() -> None:
        lists = 0

        async def script(request: web.Request) -> web.StreamResponse:
            nonlocal lists
            if "watch" not in request.query:
                lists += 1
                if lists == 1:
                    return listing("1", item("a", "1"), item("b", "1"), item("c", "1"))
                return listing("8", item("b", "1"), item("c", "7"), item("d", "8"))
            if request.query["resourceVersion"] == "8":
                return await events(request, then="silence", fake=fake)
            if how == "status":
                return failure(410, "Expired")
            return await events(request, ("ERROR", {"kind": "Status", "code": 410, "message": "too old"}))

        async with serve(script) as fake, api_at(fake.url) as api:
            watcher = Watcher(api)
            await beside(watcher.run(), lambda: until(lambda: len(fake.seen) == 4))
            assert watcher.told[3:] == [("a", None), ("c", "7"), ("d", "8")]
            assert set(watcher.informer.items) == {("default", "b"), ("default", "c"), ("default", "d")}

    play(body())


def test_a_silent_watch_is_given_up_and_followed_elsewhere() -> None:
    """The connection lives, nothing comes: only our own clock can tell."""

    async def body() -> None:
        async def silent(request: web.Request) -> web.StreamResponse:
            if "watch" not in request.query:
                return listing("1", item("a", "1"))
            return await events(request, then="silence", fake=first)

        async def lively(request: web.Request) -> web.StreamResponse:
            return await events(request, ("MODIFIED", item("a", "2")), then="silence", fake=second)

        async with serve(silent) as first, serve(lively) as second, api_at(first.url, second.url) as api:
            watcher = Watcher(api, idle_s=0.3)
            await beside(watcher.run(), lambda: until(lambda: ("a", "2") in watcher.told))
            assert api.server == second.url

    play(body())


def test_one_object_that_cannot_be_decoded_is_set_aside() -> None:
    async def body() -> None:
        def decode(raw: Any) -> str:
            version = to_meta(raw).resource_version
            if version == "bad":
                raise ValueError("not what it should be")
            return version

        async def script(request: web.Request) -> web.StreamResponse:
            if "watch" not in request.query:
                return listing("1", item("a", "bad"), item("b", "1"), {"metadata": {"name": 5}}, item("c", "1"))
            changes = (("MODIFIED", item("b", "bad")), ("MODIFIED", item("a", "2")))
            return await events(request, *changes, then="silence", fake=fake)

        async with serve(script) as fake, api_at(fake.url) as api:
            told: list[tuple[ObjectKey, str | None]] = []
            informer = Informer(api, PATH, decode=decode, key=object_key)
            run = informer.run(lambda key, value: told.append((key, value)))
            await beside(run, lambda: until(lambda: len(told) == 3))
            assert [key[1] for key, _ in told] == ["b", "c", "a"]
            assert informer.items[("default", "b")] == "1"
            assert informer.set_aside == {("default", "b"): "not what it should be"}

    play(body())


def test_a_kind_that_is_not_installed_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async def script(_: web.Request) -> web.StreamResponse:
            return failure(404, "NotFound")

        async with serve(script) as fake, api_at(fake.url) as api:
            watcher = Watcher(api)
            await beside(watcher.run(), lambda: until(lambda: watcher.informer.trouble is not None))
            assert not watcher.informer.synced
            assert "hostagent access apply" in caplog.text
            assert len(fake.seen) == 1

    play(body())


def test_a_watch_that_is_connected_anew_goes_on_from_where_it_was() -> None:
    async def body() -> None:
        async def script(request: web.Request) -> web.StreamResponse:
            if "watch" in request.query:
                return await events(request, then="silence", fake=fake)
            return listing("7", item("a", "1"))

        async with serve(script) as fake, api_at(fake.url) as api:
            watcher = Watcher(api)

            async def twice() -> None:
                await until(lambda: len(fake.seen) == 2)
                watcher.informer.reconnect()
                await until(lambda: len(fake.seen) == 3)

            await beside(watcher.run(), twice)
            assert [query.get("watch") for _, _, query in fake.seen] == [None, "1", "1"]
            assert fake.seen[2][2]["resourceVersion"] == "7"
            assert watcher.told == [("a", "1")]

    play(body())


def test_asking_to_connect_anew_before_anything_is_connected_is_fine() -> None:
    async def body() -> None:
        async def script(request: web.Request) -> web.StreamResponse:
            if "watch" in request.query:
                return await events(request, then="silence", fake=fake)
            return listing("7", item("a", "1"))

        async with serve(script) as fake, api_at(fake.url) as api:
            watcher = Watcher(api)
            watcher.informer.reconnect()
            await beside(watcher.run(), lambda: until(lambda: watcher.told == [("a", "1")]))

    play(body())
