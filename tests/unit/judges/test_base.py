"""What all judges share: their methods, the judged answer of a conversation, no thoughts."""

import json
from dataclasses import replace

import pytest

from personavec import LoadedModel, TraitSpec
from personavec.judges import (
    Answer,
    ApiRubricJudge,
    ContrastJudge,
    Endpoint,
    Judge,
    LocalRubricJudge,
    last_answer,
)


def make_spec() -> TraitSpec:
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": "Be odd.", "neg": "Never be odd."}],
            "judge_instruction": [{"pos": "Odd!", "neg": "Even!"}, {"pos": "1", "neg": "2"}],
            "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
        }
    )


def test_judges_have_the_methods_of_a_judge(llama: LoadedModel) -> None:
    endpoint = Endpoint("parrot", "http://localhost:1/v1")
    for one in (ContrastJudge(llama), LocalRubricJudge(llama), ApiRubricJudge(endpoint)):
        assert isinstance(one, Judge)
        assert json.dumps(one.identity())


#: Longer than what the judge reads of an answer, in bytes and in tokens.
THOUGHT = "The user asks about this. " * 20
THOUGHTS = [
    f"<think>\n{THOUGHT}\n</think>\n\n{{}}",
    f"<think>{THOUGHT}</think><answer>{{}}</answer>",
    f"[THINK]{THOUGHT}[/THINK]{{}}",
    f"{THOUGHT}</think>\n\n{{}}",
]


@pytest.mark.parametrize("thinks", THOUGHTS)
@pytest.mark.parametrize("kind", [ContrastJudge, LocalRubricJudge])
def test_a_thought_before_an_answer_changes_no_score(
    llama: LoadedModel, kind: type[ContrastJudge] | type[LocalRubricJudge], thinks: str
) -> None:
    """Whatever model reads: the tiny one's template knows no thinking."""
    asked = [("A?", "Fine, and odd."), ("B?", "No."), ("C?", "")]
    spec = make_spec().model_copy(update={"rubric": "{question} {answer} Odd?"})
    plain = kind(llama).score(spec, [Answer(q, a) for q, a in asked])
    found = kind(llama).score(spec, [Answer(q, thinks.format(a)) for q, a in asked])
    assert [replace(score, had_thought=False) for score in found] == plain
    assert all(score.had_thought for score in found)
    assert plain[0].state == found[0].state != "empty"


def test_an_answer_that_is_all_thought_is_a_state(llama: LoadedModel) -> None:
    found = ContrastJudge(llama, wrote_answers=True).score(
        make_spec(), [Answer("A?", "<think>Hm"), Answer("A?", "Fine.")]
    )
    assert [score.state for score in found] == ["unfinished_thought", "scored"]
    assert found[0].log_odds is None


def test_a_thought_that_was_taken_off_leaves_an_answer_as_it_is(llama: LoadedModel) -> None:
    """It may speak of the marker itself."""
    text = "It ends in </think> then."
    spec = make_spec()
    read, cut = ContrastJudge(llama, wrote_answers=True).score(
        spec, [Answer("A?", text, thought="Hm."), Answer("A?", text)]
    )
    assert len(read.log_odds_per_token or ()) == len(text)
    assert cut.had_thought


def test_the_last_scored_answer_of_a_conversation_is_judged() -> None:
    """To the last question before it, whatever a tool said in between."""
    found = last_answer(
        [
            {"role": "system", "content": "Be odd."},
            {"role": "user", "content": "A?"},
            {"role": "assistant", "content": "", "tool_calls": [{}], "scored": False},
            {"role": "tool", "content": "7"},
            {"role": "assistant", "content": "Seven.", "reasoning_content": "Hm."},
            {"role": "user", "content": "B?"},
            {"role": "assistant", "content": "Left out.", "scored": False},
        ]
    )
    assert found == Answer("A?", "Seven.", "Be odd.", thought="Hm.")
