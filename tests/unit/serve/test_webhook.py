"""Alarms that go out to an address."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from personavec.errors import UsageError
from personavec.serve.webhook import Webhook


def test_alarms_are_posted_again_until_they_arrive_and_in_order(receiver: Any) -> None:
    async def post(url: str) -> None:
        hook = Webhook(url, waits=(0.01, 0.01, 0.01))
        task = asyncio.create_task(hook.run())
        hook.send({"trait": "bold"})
        hook.send({"trait": "shy"})
        for _ in range(500):
            if len(taken) == 2:
                break
            await asyncio.sleep(0.01)
        task.cancel()

    with receiver(failures=2) as (url, taken, statuses):
        asyncio.run(post(url))
    assert taken == [{"alarm": {"trait": "bold"}}, {"alarm": {"trait": "shy"}}]
    assert statuses == [503, 503, 200, 200]


def test_an_alarm_that_never_arrives_does_not_hold_up_the_next(receiver: Any) -> None:
    async def post(url: str) -> None:
        hook = Webhook(url, waits=(0.01,))
        task = asyncio.create_task(hook.run())
        hook.send({"trait": "lost"})
        hook.send({"trait": "next"})
        for _ in range(500):
            if taken:
                break
            await asyncio.sleep(0.01)
        task.cancel()

    with receiver(failures=2) as (url, taken, statuses):
        asyncio.run(post(url))
    assert taken == [{"alarm": {"trait": "next"}}]
    assert statuses == [503, 503, 200]


#: What an address may answer a post with, byte for byte; the last closes without a word.
ODD = [
    b"SSH-2.0-OpenSSH_9.7\r\n",
    b"HTTP/1.1 xyz nonsense\r\n\r\n",
    b"\x16\x03\x01\x00\xff" * 20,
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"",
]


async def _hang_up(writer: asyncio.StreamWriter, ended: list[int]) -> None:
    """Close a connection before its loop ends, which would leave it open."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    ended.append(1)


def test_whatever_an_address_answers_the_next_alarms_are_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Something that is not HTTP, a redirect, silence: each costs its own alarm, and a log line."""
    seen: list[bytes] = []
    ended: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        seen.append(await reader.readexactly(length))
        last = len(seen) > len(ODD)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n" if last else ODD[len(seen) - 1])
        await writer.drain()
        await _hang_up(writer, ended)

    async def post() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            hook = Webhook(f"http://127.0.0.1:{port}/", waits=())
            task = asyncio.create_task(hook.run())
            for number in range(len(ODD) + 1):
                hook.send({"trait": str(number)})
            async with asyncio.timeout(60):
                while len(ended) <= len(ODD):
                    await asyncio.sleep(0.01)
            assert not task.done()
            task.cancel()

    with caplog.at_level("WARNING", "personavec.serve"):
        asyncio.run(post())
    assert [json.loads(body)["alarm"]["trait"] for body in seen] == [
        str(number) for number in range(len(ODD) + 1)
    ]
    # An unknown encoding of a body that no one reads is a delivery all the same.
    lost = [r for r in caplog.records if "not delivered" in r.message]
    assert len(lost) == len(ODD) - 1
    assert "302" in caplog.text


def test_an_address_that_never_ends_its_answer_costs_one_alarm() -> None:
    """A byte now and then keeps a socket's time from running out."""
    seen: list[int] = []
    ended: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(1)
        try:
            while len(seen) == 1:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass
        await _hang_up(writer, ended)

    async def post() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            hook = Webhook(f"http://127.0.0.1:{port}/", waits=(), timeout=0.05)
            task = asyncio.create_task(hook.run())
            hook.send({"trait": "held"})
            hook.send({"trait": "next"})
            async with asyncio.timeout(60):
                while len(ended) < 2:
                    await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(post())
    assert len(seen) == 2


@pytest.mark.parametrize(
    "url", ["http://x:99999/", "http://[::1", "file:///etc/passwd", "example.org", "http://"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="give an http or https address"):
        Webhook(url)
