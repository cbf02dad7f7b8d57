"""Exports of chat applications: ChatGPT's, and trees of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from personavec.data.fields import Fields
from personavec.data.message_lists.lists import read_messages
from personavec.data.messages import RawMessage
from personavec.data.readers.found import Found, found_in

TREE = "of several replies in a tree the first was read"


def chatgpt_export(fields: Fields) -> Found | None:
    """ChatGPT's export: `mapping` is a tree of messages, `current_node` the last one shown."""
    nodes = fields.get("mapping")
    if not isinstance(nodes, Mapping) or not all(isinstance(n, Mapping) for n in nodes.values()):
        return None
    at = fields.get("current_node")
    if not _hashable(at) or at not in nodes:
        parents = {node.get("parent") for node in nodes.values() if _hashable(node.get("parent"))}
        at = next((key for key in reversed(nodes) if key not in parents), None)
    path: list[RawMessage] = []
    seen: set[Any] = set()
    while _hashable(at) and at in nodes and at not in seen:
        seen.add(at)
        path.append(nodes[at])
        at = nodes[at].get("parent")
    spoken = [_exported(node.get("message")) for node in reversed(path)]
    for name in ("mapping", "current_node", "title"):
        fields.use(name)
    return found_in(read_messages([message for message in spoken if message], "mapping"))


def _hashable(value: Any) -> bool:
    return isinstance(value, (str, int))


def _exported(message: Any) -> RawMessage | None:
    """A message of ChatGPT's export; None for one without content or one that was not shown."""
    if not isinstance(message, Mapping):
        return None
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, Mapping) else author
    content = content if isinstance(content, Mapping) else {"parts": [content]}
    kind = content.get("content_type")
    if kind in ("user_editable_context", "model_editable_context", "reasoning_recap"):
        return None
    if kind == "thoughts":
        return {"type": "reasoning", "content": content.get("thoughts")}
    parts = content.get("parts") or [content.get("text") or content.get("result") or ""]
    if isinstance(parts, list) and not any(parts):
        return None
    to = message.get("recipient")
    if role == "assistant" and isinstance(to, str) and to not in ("all", ""):
        return {"role": role, "content": None, "tool_calls": [{"name": to, "arguments": parts}]}
    return {"role": role, "content": parts}


def message_tree(fields: Fields) -> Found | None:
    """`prompt`, a message with `replies` that have replies: the best-ranked of each are read."""
    node = fields.get("prompt")
    if not isinstance(node, Mapping) or "replies" not in node:
        return None
    fields.use("prompt")
    spoken, several = [], False
    while isinstance(node, Mapping):
        spoken.append({key: node.get(key) for key in ("role", "text")})
        replies = node.get("replies")
        replies = replies if isinstance(replies, (list, tuple)) else ()
        replies = [reply for reply in replies if isinstance(reply, Mapping)]
        several |= len(replies) > 1
        node = min(replies, key=_rank, default=None)
    conversation = read_messages(spoken, "prompt")
    if several:
        conversation.note(TREE)
    return found_in(conversation)


def _rank(reply: RawMessage) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, (int, float)) and not isinstance(rank, bool) else 1e9
