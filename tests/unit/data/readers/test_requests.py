"""Requests and responses of APIs: the choice that is read."""

from conversation_rows import ANSWER, ANSWERED, USER, WORSE, A, Q, good, said


def test_of_several_responses_the_first_or_the_chosen_is_read() -> None:
    for outputs in ([{"text": A}, {"text": "Cat."}], [{"text": A, "index": 0}, {"text": "Cat."}]):
        row = good({"prompt": Q, "outputs": outputs})
        assert said(row.messages) == [("user", Q), *ANSWERED]
        assert row.notes == ("of several choices the first was read",)
    others = [{**WORSE, "if_chosen": False}, {**ANSWER, "if_chosen": True}]
    row = good({"conversation_history": [{**USER, "if_chosen": None}, *others]})
    assert said(row.messages) == [("user", Q), *ANSWERED]
    assert row.notes == ("responses that were not chosen were left out",)
