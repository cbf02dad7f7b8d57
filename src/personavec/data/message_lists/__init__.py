"""Read lists of messages, in any form in which they are published or logged, as `Message`s.

`lists` reads a list and each message's role; the other modules read a message's content, thoughts,
tool calls and training marks. Columns of rows are handled in `readers/`.
"""
