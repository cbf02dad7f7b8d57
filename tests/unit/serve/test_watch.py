"""Drift over conversations and the server, and the alarms that go out to an address."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from personavec.data import Message
from personavec.errors import UsageError
from personavec.monitor import TurnReading
from personavec.serve.watch import AlarmRecord, Watch
from personavec.serve.webhook import Webhook
from personavec.vectors import Ordinary
from personavec.vectors.limits import ChartRule


def reading(mean: float | None, trait: str = "bold") -> TurnReading:
    """After a forecast that is nothing out of the ordinary."""
    return TurnReading(0, trait, 2, 5, 0.0, 0.0, mean, mean)


def said(*texts: str) -> list[Message]:
    return [
        {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)
    ]


# A constant 5 is at a level of 5 after one reading and of 6.7 after two.
LIMITS = Ordinary(conversation=ChartRule(0.5, 6.0), server=ChartRule(0.05, 1000.0))


def take(watch: Watch, messages: list[Message], reply: str, *means: float) -> list[AlarmRecord]:
    """The alarms that count, of replies with these readings and one text."""
    return watch.take(messages, [(reply, [reading(mean)]) for mean in means])[1]


def test_a_conversation_is_followed_through_its_turns_and_apart_from_others() -> None:
    """One reading of 5 is under the limit; the second one of the same conversation is over it."""
    watch = Watch({"bold": LIMITS})
    assert take(watch, said("a"), "one", 5) == []
    assert take(watch, said("b"), "two", 5) == []
    [alarm] = take(watch, said("a", "one", "more"), "three", 5)
    assert (alarm["trait"], alarm["scope"], alarm["turn"]) == ("bold", "conversation", 1)
    assert alarm["level"] == pytest.approx(6.708, abs=1e-3)
    # Another text before it is another conversation, whatever its length.
    assert take(watch, said("a", "ONE", "more"), "three", 5) == []
    # Above its limit already: no second alarm.
    assert take(watch, said("a", "one", "more", "three", "go on"), "four", 5) == []
    assert list(watch.alarms) == [alarm]


def test_a_reply_that_is_written_again_takes_the_place_of_the_one_before() -> None:
    """Of a chart with nothing to lose: each is the second point, whatever was there before."""
    watch = Watch({"bold": LIMITS})
    take(watch, said("a"), "one", 5)
    for again in range(3):
        assert take(watch, said("a", "one", "more"), f"calm {again}", 0) == []
    [first] = take(watch, said("a", "one", "more"), "wild", 5)
    [second] = take(watch, said("a", "one", "more"), "wilder", 5)
    assert first["level"] == second["level"] == pytest.approx(6.708, abs=1e-3)
    # It goes on from whichever the client keeps.
    assert take(watch, said("a", "one", "more", "calm 1", "go on"), "x", 5) == []
    # The first turn can be written again too.
    assert take(watch, said("a"), "other", 5) == []
    assert take(watch, said("a", "other", "more"), "x", 5)


def test_several_replies_to_one_request_count_as_one() -> None:
    watch = Watch({"bold": LIMITS})
    take(watch, said("a"), "one", 5)
    replies = [("calm", [reading(0)]), ("wild", [reading(7)]), ("wilder", [reading(8)])]
    each, counted = watch.take(said("a", "one", "more"), replies)
    assert [len(alarms) for alarms in each] == [0, 1, 1]
    assert counted == each[2] == list(watch.alarms)
    fresh = Watch({"bold": LIMITS})
    fresh.take(said("b"), replies)
    assert fresh.levels()["bold"] == pytest.approx(5)
    # It goes on from whichever the client keeps.
    assert take(watch, said("a", "one", "more", "calm", "go on"), "x", 0) == []


def test_a_conversation_is_known_after_what_clients_do_to_texts() -> None:
    """White space and thinking are dropped; of a reply that was cut, what came before it counts."""
    watch = Watch({"bold": LIMITS}, answer=lambda text: text.rpartition("</think>")[2])
    take(watch, said("a"), "<think>hm</think> one ", 5)
    assert take(watch, said("a", "one", "more"), "two and three", 5)
    watch = Watch({"bold": LIMITS})
    take(watch, said("a"), "one", 5)
    take(watch, said("a", "one", "more"), "two and three", 0)
    assert take(watch, said("a", "one", "more", "two and", "go on"), "x", 5)


def test_a_system_prompt_may_change_within_a_conversation() -> None:
    watch = Watch({"bold": LIMITS})
    take(watch, [{"role": "system", "content": "Be brief."}, *said("a")], "one", 5)
    assert take(watch, said("a", "one", "more"), "two", 5)


def test_the_whole_server_has_a_chart_of_its_own() -> None:
    watch = Watch(
        {"bold": Ordinary(conversation=ChartRule(0.5, 1000.0), server=ChartRule(0.05, 12.0))}
    )
    alarms = [alarm for i in range(40) for alarm in take(watch, said(str(i)), "so", 4)]
    assert [alarm["scope"] for alarm in alarms] == ["server"]
    assert watch.levels()["bold"] > 12


def test_what_cannot_be_read_raises_nothing() -> None:
    watch = Watch({"bold": LIMITS})
    assert watch.take(said("a"), [("", [reading(None), reading(100, "unknown")])]) == ([[]], [])
    assert watch.levels() == {"bold": 0.0}


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
