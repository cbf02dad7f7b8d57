"""What --dry-run prints of an endpoint's calls."""

from __future__ import annotations

import math
from typing import Any

from personavec.errors import UsageError
from personavec.judges.endpoint.cost import CostEstimate
from personavec.terminal import console, print_json
from personavec.wording import plural


def show_cost(found: CostEstimate, price: str | None, *, as_json: bool) -> None:
    """What --dry-run prints of an endpoint's calls. Raises UsageError for prices."""
    record: dict[str, Any] = dict(found.__dict__)
    if price:
        record["cost"] = round(found.cost(*_prices(price)), 4)
    if as_json:
        print_json({"dry_run": record})
        return
    console.print(
        f"{plural(found.calls, 'call')} ({found.cached} more on disk), about {found.prompt_tokens} "
        f"tokens in and at most {found.answer_tokens} out"
        + (f", cost {record['cost']:g}" if price else "; --api-price IN,OUT gives the cost")
    )


def _prices(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--api-price {text}: give numbers separated by commas") from None
    if not all(map(math.isfinite, found)):
        raise UsageError(f"--api-price {text}: a number is not finite")
    if len(found) != 2:
        raise UsageError(f"--api-price {text}: give two prices, of tokens in and out")
    return found
