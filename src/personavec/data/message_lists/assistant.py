"""A message of the assistant: its answer, thought, tool calls, and whether it is scored."""

from __future__ import annotations

from personavec.data.fields import Unusable, given
from personavec.data.message_lists.content import THOUGHT_KEYS, Content, is_setting, thought_text
from personavec.data.message_lists.tool_calls import CALL_KEYS, calls_in, written_calls
from personavec.data.message_lists.training_marks import MASKED, training_mark
from personavec.data.messages import (
    THOUGHT,
    UNFINISHED,
    Conversation,
    Message,
    RawMessage,
    ToolCall,
)
from personavec.data.thoughts import thought_and_answer, unwrapped

EMPTY_THOUGHT = "an empty thought was left out of the answer"
WRAPPER = "a wrapper such as <answer> was taken off the answer"


def read_assistant(
    conversation: Conversation, message: RawMessage, content: Content, is_call: bool
) -> None:
    """Add an assistant message; `is_call` says that its text is a tool call. Raises Unusable."""
    thoughts = [*content.thoughts]
    if conversation.thought is not None:
        thoughts.insert(0, conversation.thought)
        conversation.thought = None
    if message.get("channel") == "analysis":  # gpt-oss: a thought in a message of its own
        conversation.thought = "\n\n".join([*thoughts, content.text()])
        return
    _add_thought_fields(thoughts, message)
    calls = _calls(message, content, is_call)
    if not (content.has_text or calls or content.replies or thoughts):
        raise Unusable(f"message {content.place} (assistant) has no text")
    answer = _without_thought(conversation, "" if is_call else content.text(), thoughts)
    made: Message = {"role": "assistant", "content": ""}
    if thoughts:
        made["reasoning_content"] = "\n\n".join(thought for thought in thoughts if thought)
        if made["reasoning_content"]:
            conversation.note(THOUGHT)
    if answer is None:
        made["scored"] = False
        conversation.note(UNFINISHED)
        conversation.messages.append(made)
        return
    if not calls:
        answer, calls = written_calls(answer, content.place)
    _complete(conversation, made, answer, calls, training_mark(message))
    conversation.messages += content.replies


def _add_thought_fields(thoughts: list[str], message: RawMessage) -> None:
    """Add the thoughts in separate fields of the message."""
    for key in THOUGHT_KEYS:
        if given(message.get(key)) and not is_setting(message[key]):
            thought = thought_text(message[key])
            if thought and thought not in thoughts:
                thoughts.append(thought)


def _calls(message: RawMessage, content: Content, is_call: bool) -> list[ToolCall]:
    """The calls in the parts of the content, in its text and in separate fields."""
    calls = list(content.calls)
    if is_call:
        calls += calls_in(content.text(), content.place)
    for key in CALL_KEYS:
        if given(message.get(key)):
            calls += calls_in(message[key], content.place)
    if calls and given(message.get("function_call")) and given(message.get("tool_calls")):
        return calls_in(message["tool_calls"], content.place)
    return calls


def _without_thought(conversation: Conversation, text: str, thoughts: list[str]) -> str | None:
    """The answer in a text; its thought is added to `thoughts`. None if the thought never ends."""
    inner, answer = thought_and_answer(text)
    if inner is not None and inner.strip() not in {thought.strip() for thought in thoughts}:
        thoughts.append(inner)
    if inner is not None and not inner:
        conversation.note(EMPTY_THOUGHT)
    if answer is None or (inner is None and not thoughts):
        return answer
    plain = unwrapped(answer)
    if plain != answer:
        conversation.note(WRAPPER)
    return plain


def _complete(
    conversation: Conversation,
    made: Message,
    answer: str,
    calls: list[ToolCall],
    mark: str | None,
) -> None:
    """Add the message with its answer and calls; `mark` is the training mark that masks it."""
    made["content"] = answer
    if calls:
        made["tool_calls"] = calls
        if not answer.strip():
            made["content"] = ""
            made["scored"] = False
    if mark:
        made["scored"] = False
        conversation.note(MASKED.format(mark))
    conversation.messages.append(made)
