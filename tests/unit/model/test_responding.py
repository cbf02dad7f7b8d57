"""One answer at a time: the engine's greedy answer by another route."""

from collections.abc import Callable

from generating import generate_batch

from personavec import LoadedModel, PersonaVector, respond, steer
from personavec.model import Message, Steering, chat
from personavec.model.engine import Request, Sampling

GREEDY = Sampling(max_tokens=8, temperature=0)


def test_a_question_and_a_conversation_are_answered_as_the_engine_answers(
    llama: LoadedModel,
) -> None:
    earlier: list[Message] = [*chat("Hi?"), {"role": "assistant", "content": "So."}, *chat("Why?")]
    for asked, messages in (("Why?", chat("Why?")), (earlier, earlier)):
        request = Request("q", tuple(llama.chat.prompt_ids(messages)))
        [expected] = generate_batch(llama, [request], GREEDY)
        assert respond(llama, asked, max_tokens=8) == llama.chat.decode(expected.response_ids)


def test_within_steer_the_answer_is_steered(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    vector = random_vector(llama, layer=2)
    steering = (Steering(2, vector.direction(), 4.0),)
    request = Request("q", tuple(llama.chat.prompt_ids(chat("Why?"))), steering)
    [expected] = generate_batch(llama, [request], GREEDY)
    with steer(llama.model, vector, 4.0):
        found = respond(llama, "Why?", max_tokens=8)
    assert found == llama.chat.decode(expected.response_ids)
    assert found != respond(llama, "Why?", max_tokens=8)
