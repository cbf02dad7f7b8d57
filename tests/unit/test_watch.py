"""Drift over conversations and the server, and the alarms that go out to an address."""

import asyncio
from typing import Any

import pytest

from personavec.drift import Ordinary, Rule
from personavec.errors import UsageError
from personavec.readings import Reading
from personavec.serve.watch import Watch
from personavec.serve.webhook import Webhook


def reading(mean: float | None, trait: str = "bold") -> Reading:
    """After a forecast that is nothing out of the ordinary."""
    return Reading(0, trait, 2, 5, 0.0, 0.0, mean, mean)


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


# A constant 5 is at a level of 5 after one reading and of 6.7 after two.
LIMITS = Ordinary(conversation=Rule(0.5, 6.0), server=Rule(0.05, 1000.0))


def test_a_conversation_is_followed_through_its_turns_and_apart_from_others() -> None:
    """One reading of 5 is under the limit; the second one of the same conversation is over it."""
    watch = Watch({"bold": LIMITS})
    assert watch.take(said("a"), "one", [reading(5)]) == []
    assert watch.take(said("b"), "two", [reading(5)]) == []
    [alarm] = watch.take(said("a", "one", "more"), "three", [reading(5)])
    assert (alarm["trait"], alarm["scope"], alarm["turn"]) == ("bold", "conversation", 1)
    assert alarm["level"] == pytest.approx(6.708, abs=1e-3)
    # Another text before it is another conversation, whatever its length.
    assert watch.take(said("a", "ONE", "more"), "three", [reading(5)]) == []
    # Above its limit already: no second alarm.
    assert watch.take(said("a", "one", "more", "three", "go on"), "four", [reading(5)]) == []
    assert list(watch.alarms) == [alarm]


def test_a_system_prompt_may_change_within_a_conversation() -> None:
    watch = Watch({"bold": LIMITS})
    system = [{"role": "system", "content": "Be brief."}]
    watch.take([*system, *said("a")], "one", [reading(5)])
    assert watch.take(said("a", "one", "more"), "two", [reading(5)])


def test_the_whole_server_has_a_chart_of_its_own() -> None:
    watch = Watch({"bold": Ordinary(conversation=Rule(0.5, 1000.0), server=Rule(0.05, 12.0))})
    alarms = [alarm for i in range(40) for alarm in watch.take(said(str(i)), "so", [reading(4)])]
    assert [alarm["scope"] for alarm in alarms] == ["server"]
    assert watch.levels()["bold"] > 12


def test_what_cannot_be_read_raises_nothing() -> None:
    watch = Watch({"bold": LIMITS})
    assert watch.take(said("a"), "", [reading(None), reading(100, "unknown")]) == []
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


@pytest.mark.parametrize("url", ["file:///etc/passwd", "example.org", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="give an http or https address"):
        Webhook(url)
