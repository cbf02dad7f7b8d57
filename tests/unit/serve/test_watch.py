"""Drift over conversations and the server."""

import pytest

from personavec.data import Message
from personavec.monitor import TurnReading
from personavec.serve.purpose import Purpose
from personavec.serve.watch import AlarmRecord, Watch
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


def test_an_alarm_that_steering_explains_is_told_from_others() -> None:
    """A reading of 9 of which 8 were added; then one of which nothing was; then on purpose."""
    added = Purpose(sigmas={"bold": 8.0})

    def alarms(watch: Watch, at: list[Message], mean: float, own: Purpose) -> list[bool]:
        each = watch.take(at, [("x", [reading(mean)])], own)[1]
        assert {(a["trait"], a["scope"]) for a in each} <= {("bold", "conversation")}
        return [alarm["steered"] for alarm in each]

    watch = Watch({"bold": LIMITS})
    assert alarms(watch, said("a"), 9, added) == [True]
    # The chart is above its limit already, and tells once that steering no longer explains it.
    assert alarms(watch, said("a", "x", "b"), 30, added) == [False]
    assert alarms(watch, said("a", "x", "b", "x", "c"), 30, added) == []
    # What steering away takes from a reading hides nothing, and makes no alarm of its own.
    away = Purpose(sigmas={"bold": -8.0}, coefficients={"bold": -1.0})
    assert alarms(Watch({"bold": LIMITS}), said("a"), 1, away) == []
    assert alarms(Watch({"bold": LIMITS}), said("a"), 9, away) == [False]
    # Steered toward the trait, even what the model makes of it is meant.
    toward = Purpose(sigmas={"bold": 1.0}, coefficients={"bold": 1.0})
    assert alarms(Watch({"bold": LIMITS}), said("a"), 30, toward) == [True]
    assert alarms(Watch({"bold": LIMITS}), said("a"), 30, Purpose()) == [False]


def test_the_server_s_alarm_says_too_whether_steering_explains_it() -> None:
    limits = Ordinary(conversation=ChartRule(0.5, 1000.0), server=ChartRule(0.05, 12.0))
    for own, expected in ((Purpose(sigmas={"bold": 3.5}), True), (Purpose(), False)):
        watch = Watch({"bold": limits})
        replies = [("so", [reading(4)])]
        found = [a for i in range(40) for a in watch.take(said(str(i)), replies, own)[1]]
        assert [(alarm["scope"], alarm["steered"]) for alarm in found] == [("server", expected)]


@pytest.mark.parametrize("other", ["steered away", "as it is"])
def test_two_sides_that_are_steered_on_purpose_leave_no_alarm_unexplained(other: str) -> None:
    """What the model makes of steering toward the trait is no drift of the other side's replies,
    and what steering away takes from these is none either."""
    rule = ChartRule(0.05, 12.0)
    watch = Watch({"bold": Ordinary(conversation=ChartRule(0.5, 1000.0), server=rule)})
    toward = Purpose(sigmas={"bold": 17.0}, coefficients={"bold": 2.0})
    away = Purpose(sigmas={"bold": -9.0}, coefficients={"bold": -2.0})
    found: list[AlarmRecord] = []
    for i in range(60):
        sides = [(20.0, toward), (-4.0, away) if other == "steered away" else (0.5, Purpose())]
        for side, (mean, own) in enumerate(sides):
            at = said(f"{i}-{side}")
            found += watch.take(at, [("so", [reading(mean)])], own)[1]
    assert {(alarm["scope"], alarm["steered"]) for alarm in found} == {("server", True)}
    # What nobody asked for is told still.
    after = [a for i in range(60) for a in take(watch, said(f"plain {i}"), "so", 9)]
    assert [(alarm["scope"], alarm["steered"]) for alarm in after] == [("server", False)]


def test_what_cannot_be_read_raises_nothing() -> None:
    watch = Watch({"bold": LIMITS})
    assert watch.take(said("a"), [("", [reading(None), reading(100, "unknown")])]) == ([[]], [])
    assert watch.levels() == {"bold": 0.0}
