"""One answer under a schema: checked, and asked for again with the errors."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from personavec.errors import EndpointError
from personavec.judges import Endpoint, ask_json


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=10)
    age: int = Field(ge=0)


ADA = '{"name": "Ada", "age": 36}'
QUESTION = [{"role": "user", "content": "Who?"}]


@pytest.fixture
def says(server: Any, chat_completion: Callable[..., Any]) -> Callable[..., None]:
    """Scripts the texts that the endpoint answers one after the other."""

    def script(*texts: str) -> None:
        left: Iterator[str] = iter(texts)
        server.reply = lambda body, times: chat_completion(next(left))

    return script


@pytest.mark.parametrize("text", [ADA, f"```json\n{ADA}\n```", f"Here you are: {ADA} Enjoy!"])
def test_an_answer_under_a_schema(
    server: Any, endpoint: Endpoint, says: Callable[..., None], text: str
) -> None:
    says(text)
    assert ask_json(endpoint, QUESTION, Person) == Person(name="Ada", age=36)
    sent = server.seen[0]["response_format"]["json_schema"]
    assert (sent["strict"], sent["schema"]) == (True, Person.model_json_schema())


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ('{"name": "Ada", "age": -1}', "age: Input should be greater than or equal to 0"),
        ('{"name": "Ada"}', "age: Field required"),
        ('{"name": "Ada", "ag', "Invalid JSON"),
        ("I am Ada.", "Invalid JSON"),
        ("", "Invalid JSON"),
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_again_with_what_is_wrong(
    server: Any, endpoint: Endpoint, says: Callable[..., None], bad: str, complaint: str
) -> None:
    says(bad, ADA)
    assert ask_json(endpoint, QUESTION, Person).age == 36
    question, schema, answer, again = server.seen[1]["messages"]
    assert question == QUESTION[0]
    assert '"maxLength": 10' in schema["content"]
    assert answer["role"] == "assistant"
    assert complaint in again["content"]


def test_tries_are_bounded(server: Any, endpoint: Endpoint, says: Callable[..., None]) -> None:
    says("no", "never", "not at all", ADA)
    with pytest.raises(EndpointError, match="no usable JSON in 3 tries"):
        ask_json(endpoint, QUESTION, Person)
    assert len(server.seen) == 3


def test_an_endpoint_without_structured_outputs_gets_the_schema_in_words(
    server: Any, endpoint: Endpoint, chat_completion: Callable[..., Any]
) -> None:
    refused = (400, {}, {"error": {"message": "response_format is not supported"}})
    server.reply = lambda body, times: (
        refused if "response_format" in body else chat_completion(ADA)
    )
    assert ask_json(endpoint, QUESTION, Person).name == "Ada"
    assert "JSON schema" in server.seen[1]["messages"][1]["content"]


def test_a_model_that_declines_is_quoted(
    server: Any, endpoint: Endpoint, chat_completion: Callable[..., Any]
) -> None:
    declines = chat_completion("")
    declines["choices"][0]["message"]["refusal"] = "I had rather not."
    server.reply = lambda body, times: declines
    with pytest.raises(EndpointError, match="declines to answer: I had rather not"):
        ask_json(endpoint, QUESTION, Person)
