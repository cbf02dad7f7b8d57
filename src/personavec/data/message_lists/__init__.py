"""Lists of messages in every form in which they are published or logged, as `Message`s.

`lists` reads a list and each message's role; the other modules read a message's content, thoughts,
tool calls and training marks. None of them knows a row's columns.
"""
