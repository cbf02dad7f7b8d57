"""Names under which columns hold a conversation and its parts."""

from __future__ import annotations

import re

#: Columns that hold a conversation, or the messages before a response in another column.
MESSAGES = (
    *("messages", "conversations", "conversation", "contents", "chat_messages", "dialogue"),
    *("dialog", "dialogs", "dialogues", "chat", "chats", "turns", "data", "thread", "trajectory"),
    *("input_messages", "transcript", "message_list", "items", "traj"),
)
#: Those of them that hold nothing else.
MESSAGES_ONLY = ("messages", "conversations", "contents")
#: Those that are no conversation if texts of a prompt and a response stand beside them.
MAY_BE_OTHER = MESSAGES[MESSAGES.index("dialogue") :]
#: Columns of a prompt and a response that are used together; they are tried before any other
#: combination of `PROMPTS` and `RESPONSES`, whose most specific names come first.
TOGETHER = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "attempt"),
    ("question", "solution"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("problem", "solution"),
    ("input", "output"),
    ("input", "target"),
    ("inputs", "outputs"),
    ("inputs", "targets"),
    ("request", "response"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "bot"),
    ("input_text", "output_text"),
    ("message", "text"),
    ("q", "a"),
)
#: Names that say themselves what a column holds; of others it is said what they were taken for.
PLAIN_PROMPT = re.compile("prompt|question|instruction|query|problem|input|request", re.IGNORECASE)
PLAIN_RESPONSE = re.compile(
    "completion|response|answer|output|reply|solution|target|generat", re.IGNORECASE
)
PROMPTS = (
    *("prompt", "question", "instruction", "query", "problem", "input", "inputs", "request"),
    *("user_prompt", "user_message", "user_input", "user", "human", "body", "request_body"),
    *("requestBody", "params", "message", "input_text", "text_input", "inputText"),
    "inputBodyJson",
)
RESPONSES = (
    *("completion", "response", "answer", "output", "outputs", "target", "targets", "reply"),
    *("generated_text", "generation", "generated_solution", "model_output", "model_response"),
    *("model_answer", "assistant_response", "assistant_message", "bot_response", "ai_response"),
    *("assistant", "bot", "result", "results", "response_body", "responseBody"),
    *("output_messages", "choices", "candidates", "message", "output_text", "outputBodyJson"),
    *("solution", "attempt", "sampled", "content"),
)
#: Text in these is a response only beside `prompt`; an API's response may be in them too.
NO_ANSWER_ALONE = ("message", "content")
SYSTEM = (
    *("system", "system_prompt", "system_message", "systemPrompt", "systemMessage"),
    *("system_instruction", "system_instructions", "systemInstruction", "meta_instruction"),
    *("instructions", "preamble", "developer", "developer_message", "sys_prompt", "system_msg"),
    "preprompt",
)
HISTORY = ("history", "chat_history", "conversation_history", "dialogue_history", "past")
#: Columns of text that is appended to a prompt, by the prompt's column.
MORE = {"instruction": ("input", "context"), "*": ("context",)}
THOUGHTS = (
    *("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think", "cot"),
    *("chain_of_thought", "complex_cot", "reasoning_trace", "think_content", "model_reasoning"),
    *("thinking_trajectory", "thinking_trajectories"),
)
#: Columns of a preference pair: the better response and the other one.
SIDES = (
    ("chosen", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred", "non_preferred"),
    ("preferred", "dispreferred"),
    ("accepted", "rejected"),
    ("chosen", "reject"),
    ("better_response", "worse_response"),
    ("response_j", "response_k"),
    ("messages", "rejected_messages"),
)
PAIR_PROMPTS = (
    *("prompt", "question", "instruction", "query", "problem", "input", "conversations"),
    *("conversation", "messages", "context", "history", "user_prompt", "body", "trajectory"),
)
#: Two responses; another column says which is better.
TWO = (
    ("response_0", "response_1"),
    ("response_a", "response_b"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("output_1", "output_2"),
    ("output_a", "output_b"),
    ("answer_0", "answer_1"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("conversation_a", "conversation_b"),
    ("messages_a", "messages_b"),
    ("human_ref_A", "human_ref_B"),
)
#: Columns with several responses to one prompt.
SEVERAL = ("completions", "answers", "responses", "candidates", "generations", "resps", "samples")
#: Columns of a single message: its speaker and its text.
SPEAKER = ("role", "is_user", "speaker", "sender", "user", "username", "from")
SPOKEN = ("content", "text", "message", "mes", "utterance")
#: Columns that may hold a whole row.
WRAPPING = (
    *("data", "payload", "record", "row", "event", "log", "entry", "item", "sample", "example"),
    *("meta", "span", "run", "trace", "properties", "json", "_source", "detail", "value"),
)
