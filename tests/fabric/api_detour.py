"""Stands between hosts and API server: lets its answers through late, or refuses all requests. A program of its own.

api_detour.py --listen=PORT --to=ADDRESS --port=PORT slow --delay-s=S
api_detour.py --listen=PORT --to=ADDRESS --port=PORT throttle --retry-after-s=S CERTIFICATE KEY
"""

import argparse
import asyncio
import signal
import socket
import ssl
from collections.abc import Coroutine
from contextlib import suppress

from aiohttp import web

_READ_BYTES = 65536


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listener = socket.create_server(("::", options.listen), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    if options.mode == "slow":
        await _slow(options, listener, stop)
    else:
        await _throttle(options, listener, stop)


async def _slow(options: argparse.Namespace, listener: socket.socket, stop: asyncio.Event) -> None:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # either end may go at any time; then the other goes too
            try:
                api_reader, api_writer = await asyncio.open_connection(options.to, options.port)
                try:
                    await _either(_pass_on(reader, api_writer), _pass_on_late(api_reader, writer, options.delay_s))
                finally:
                    api_writer.close()
            finally:
                writer.close()

    server = await asyncio.start_server(one, sock=listener)
    await stop.wait()
    server.close()  # the connections end with the process


async def _either(*directions: Coroutine[None, None, None]) -> None:
    """Until one direction has ended: TLS has no use for a half-closed connection."""
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ_BYTES):
        writer.write(data)
        await writer.drain()


async def _pass_on_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Each piece `delay_s` after it came, not `delay_s` after the one before: late, not narrow."""
    clock = asyncio.get_running_loop().time
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def take() -> None:
        while True:
            data = await reader.read(_READ_BYTES)
            await on_the_way.put((clock() + delay_s, data))
            if not data:
                return

    async def give() -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - clock()))
            if not data:
                return
            writer.write(data)
            await writer.drain()

    await asyncio.gather(take(), give())


async def _throttle(options: argparse.Namespace, listener: socket.socket, stop: asyncio.Event) -> None:
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": 429,
        "reason": "TooManyRequests",
        "message": "the server has received too many requests and has asked us to try again later",
        "details": {"retryAfterSeconds": options.retry_after_s},
    }

    async def refuse(_: web.BaseRequest) -> web.Response:
        return web.json_response(status, status=429, headers={"Retry-After": str(options.retry_after_s)})

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.certificate, options.key)
    tls.set_alpn_protocols(["http/1.1"])
    runner = web.ServerRunner(web.Server(refuse))
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=tls).start()
    await stop.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--port", type=int, required=True)
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("slow").add_argument("--delay-s", type=float, required=True)
    throttle = modes.add_parser("throttle")
    throttle.add_argument("--retry-after-s", type=int, required=True)
    throttle.add_argument("certificate")
    throttle.add_argument("key")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_serve(_options()))
