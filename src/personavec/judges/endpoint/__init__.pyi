from .asking import ask as ask
from .config import Endpoint as Endpoint, Request as Request
from .cost import (
    CostEstimate as CostEstimate,
    estimate as estimate,
    total as total,
    unwritten as unwritten,
)
from .reply import Choice as Choice, Reply as Reply
from .structured import ask_json as ask_json
