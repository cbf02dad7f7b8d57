"""personavec author"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, print_json


def command(
    name: Annotated[str, typer.Argument(help="The trait's name.")],
    description: Annotated[
        str, typer.Option("--description", help="One sentence that says how the trait shows.")
    ],
    api_model: options.ApiModel = None,
    api_base: options.ApiBase = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    api_price: options.ApiPrice = None,
    cache: options.Cache = None,
    dry_run: options.DryRun = False,
    out: options.Out = None,
    examples: Annotated[
        int, typer.Option(min=0, help="Examples in every pair; small models need them.")
    ] = 2,
    probe: Annotated[
        bool, typer.Option("--probe", help="Count what each pair and question elicits in --model.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=0, help="Times that flawed entries are rewritten, at most.")
    ] = 2,
    tries: Annotated[
        int, typer.Option(min=1, help="Answers that may be unusable before giving up.")
    ] = 3,
    answer_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer of the author, in tokens.")
    ] = 8192,
    model: options.Model = "smollm2",
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 16384,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a trait spec with a strong model behind an endpoint, check it, and try it.

    Example: `personavec author formal --description "Writes with distance." --api-model gpt-4.1`

    The spec is written to spec.json in --out, for you to read and edit. A killed run continues
    when the same command is given again. --dry-run counts every round as a whole spec.
    """
    from personavec.author import AuthorConfig, Sizes, most_asked, run
    from personavec.judges import Endpoint

    endpoint = Endpoint(
        api_model or "", api_base or "", key_variable=api_key_env, concurrency=1, cache=cache
    )
    config = AuthorConfig(
        sizes=Sizes(examples=examples),
        rounds=rounds,
        seed=seed,
        tries=tries,
        answer_tokens=answer_tokens,
        batch_tokens=batch_tokens,
    )
    if dry_run:
        asked = most_asked(endpoint, name, description, config)
        options.print_estimate(asked, api_price, as_json)
        return
    subject = None
    if probe:
        subject = options.load_model(model, dtype, device, model_arg, template_arg)
    folder = out or Path("traits") / name.strip().replace(" ", "_")
    found = run(endpoint, name, description, folder, config, subject=subject)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    console.print(
        f"{found['trait']}: written by {found['author']['model']}, {found['replaced']} entries "
        f"replaced in {found['rounds']} round(s), {len(found['warnings'])} warning(s)",
        highlight=False,
        markup=False,
    )
    for warning in found["warnings"]:
        console.print(f"  {warning}", markup=False, highlight=False)
    if tried := found["probe"]:
        table = Table(
            "pair", "positive rollouts kept", "negative", title=f"on {tried['model']['name']}"
        )
        for number, kept in enumerate(tried["pairs"], start=1):
            table.add_row(
                str(number), f"{kept['pos']} of {kept['of']}", f"{kept['neg']} of {kept['of']}"
            )
        console.print(table)
    console.print(f"written to {found['spec']}; read it before you use it", highlight=False)
