"""Chat completions from a model behind an OpenAI-compatible endpoint, with a cache of answers.

    endpoint = Endpoint("gpt-4.1-mini")                      # key from $OPENAI_API_KEY
    endpoint = Endpoint("qwen", "http://localhost:8000/v1")  # a local server needs no key

    replies = ask(endpoint, [{"messages": chat("Hello?"), "max_tokens": 8}, ...])
    spec = ask_json(endpoint, messages, schema=SomePydanticModel)

Knows nothing about traits.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
