"""Specs by name: bundled, in a file, or made from templates."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from personavec.errors import SpecError
from personavec.plain import parse_json
from personavec.runs import why_invalid
from personavec.traits.spec import BUNDLED, Check, Origin, TraitSpec
from personavec.traits.templates import template_spec


def bundled_traits() -> list[str]:
    """Names of the traits that ship with the package."""
    return sorted(p.name[:-5] for p in (BUNDLED / "traits").iterdir() if p.name.endswith(".json"))


@cache
def neutral_prompts() -> tuple[str, ...]:
    """Ordinary requests; the neutral baseline against which projections are standardised."""
    return tuple(json.loads((BUNDLED / "neutral_prompts.json").read_text("utf-8"))["prompts"])


def load_trait(source: str, description: str | None = None) -> tuple[TraitSpec, Origin]:
    """A spec from a bundled name, a JSON file, or a name with a description.

    Raises SpecError when it is none of these or when the spec is unsound.
    """
    if description is not None:
        return template_spec(source, description), "template"
    if source in bundled_traits():
        text = (BUNDLED / "traits" / f"{source}.json").read_text("utf-8")
        spec = _parse(text, where=source, name=source)
        return spec.model_copy(update={"checks": _bundled_checks(source)}), "bundled"
    path = Path(source)
    if path.suffix == ".json" or _is_file(path):
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, ValueError) as error:
            raise SpecError(f"trait spec {source} cannot be read: {error}") from error
        return _parse(text, where=source, name=path.stem), "file"
    raise SpecError(
        f"unknown trait '{source}': use one of {', '.join(bundled_traits())}, or a spec file "
        "(personavec extract also builds one from a name and --description TEXT)"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text that is too long for a name
        return False


def checks_file(name: str) -> Path:
    """The file of a bundled trait's answers, of which it is known whether they show the trait.

    Raises SpecError for a trait that is not bundled.
    """
    if name not in bundled_traits():
        raise SpecError(f"no bundled trait '{name}': use one of {', '.join(bundled_traits())}")
    return Path(str(BUNDLED / "checks" / f"{name}.json"))


@cache
def _bundled_checks(name: str) -> tuple[Check, ...]:
    """In files of their own: they are longer than the specs, and were written independently."""
    text = checks_file(name).read_text("utf-8")
    return tuple(Check.model_validate(check) for check in json.loads(text))


def _parse(text: str, *, where: str, name: str) -> TraitSpec:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise SpecError(f"trait spec {where} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise SpecError(f"trait spec {where} must be a JSON object")
    if "eval_prompt" in data or isinstance(data.get("questions"), list):
        data = _from_reference(data, name, where)
    try:
        return TraitSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(f"trait spec {where}: {why_invalid(error)}") from error


def _from_reference(data: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Our schema from the reference project's `instruction`, `questions`, `eval_prompt`.

    Its questions are one list; the first half extracts, the second evaluates.
    """
    questions = data.get("questions")
    if not isinstance(questions, list) or len(questions) < 4:
        raise SpecError(f"trait spec {where}: 'questions' must list at least 4 questions")
    half = len(questions) // 2
    return {
        "name": name,
        "description": data.get("description") or name.replace("_", " "),
        "instruction": data.get("instruction", []),
        "questions": {"extraction": questions[:half], "evaluation": questions[half:]},
        "rubric": data.get("eval_prompt", ""),
        "provenance": {"format": "reference project", "file": Path(where).name},
    }
