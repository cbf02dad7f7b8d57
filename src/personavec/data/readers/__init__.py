"""The readers: one for each form in which a row's columns hold a conversation.

A reader takes a row's `Fields` and returns what it `Found`; None if the row is of another form. It
raises Unusable if the row is of its form but cannot be used. `table.READERS` lists all of them in
the order in which they are tried, and docs/data.md describes them.

    pairs            `chosen` and `rejected`, or `messages` and `rejected_response`
    two_responses    two responses, and a column that says which is better
    message_columns  a list of messages, or a history of turns
    exports          ChatGPT's export, trees of messages
    spans            traces of OpenTelemetry and OpenInference
    prompts          a prompt column and a response column
    rendered         one text that a chat template has written

They use `requests`, which reads requests to an API and its responses, `beside`, which adds system
prompts, histories and thoughts from other columns, and `columns`, which has the columns' names.
"""
