"""personavec author"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.author.config import AuthorConfig
from personavec.cli.groups import ModelOptions, OutputOptions
from personavec.extras import check_extras
from personavec.judges.config import EndpointOptions
from personavec.options import options
from personavec.results import dump


@options()
@dataclass(frozen=True)
class AuthorInputs:
    description: str
    """One sentence that says how the trait shows."""
    probe: bool = False
    """Count what each pair and question elicits in --model."""


def command(
    name: str,
    /,
    *,
    inputs: AuthorInputs,
    endpoint: EndpointOptions = EndpointOptions(),
    config: AuthorConfig = AuthorConfig(),
    model: ModelOptions = ModelOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Write a trait spec with a strong model behind an endpoint, check it, and try it.

    Example: `personavec author formal --description "Writes with distance." --api-model gpt-4.1`

    The spec is written to spec.json in --out, for you to read and edit. A killed run continues
    when the same command is given again. --dry-run counts every round as a whole spec.

    Parameters
    ----------
    name
        The trait's name.
    """
    from personavec.author import most_asked, run
    from personavec.author.terminal import show
    from personavec.judges.endpoint.terminal import show_cost

    author = endpoint.connect()
    if endpoint.dry_run:
        asked = most_asked(author, name, inputs.description, config)
        show_cost(asked, endpoint.api_price, as_json=output.as_json)
        return
    check_extras("api")
    folder = output.folder(Path("traits") / name.strip().replace(" ", "_"))
    subject = model.load() if inputs.probe else None
    found = run(author, name, inputs.description, folder, config, subject=subject)
    output.tell(dump(found), lambda: show(found, model.named()))
