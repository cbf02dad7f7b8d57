"""The tables of docs/results.md on screening: what is found, and in which of twelve datasets."""

from __future__ import annotations

from results_tables import Record, pm, table

#: Rows shown for each trait, and how much of a text; the report has more.
_SHOWN, _CHARACTERS = 3, 70

_DETECTION = """How it reads. The exact difference does NOT reach the 0.9 that was aimed at, nor
what TF-IDF reaches that was trained on rows of the same kind; the judge is better on either style.
Two things stand in its way. It measures by how much a row exceeds what the model would say itself,
and where the model shows a trait anyway (sycophantic, optimistic) rows that show it exceed little:
there the raw projection finds more. And a vector does not tell its trait from the style of other
assistants, whose ordinary answers exceed written optimistic ones along the optimistic vector; by
the judge, they do too. As a ranking of datasets it does better: normal < mild < strong holds for
six of seven traits, for three beyond chance.
"""


_LOGISTIC = """How it reads. The mean over four natural responses finds more than the greedy one on
either style, most of all for sycophantic, and less only in the elicited rows of evil and
hallucinating. On rows written by people it reaches the 0.9 that was aimed at, a little above
TF-IDF, whose training rows were of another style; their intervals touch. On elicited rows, half of
which show the trait faintly, it does NOT reach it, and TF-IDF, trained on rows of that kind, does.
On written rows judge and difference together find most.
"""


def detection(results: Record | None) -> str:
    """Planted rows found by every method, and the order of three datasets."""
    text = (
        "## Planted rows found among clean ones\n\n"
        "`personavec validate-screen chats.jsonl --clean 100 --natural-samples 1`: rows that show "
        "a trait, planted into rows of 12 assistants' answers. Elicited rows come from the model, "
        "written ones from people; baselines were fitted on other elicited rows. AUC, mean over "
        "traits, with 95% intervals over prompts.\n"
    )
    if results is None:
        return f"{text}\nNot measured.\n"
    return "\n".join([text, _methods(results), _by_trait(results), _order(results), _DETECTION])


def logistic(results: Record | None) -> str:
    """The same rows along another direction: the methods' figures alone."""
    text = (
        "### Along the logistic direction\n\n"
        "`personavec validate-screen chats.jsonl --clean 100 --estimator logistic`: such rows "
        "made anew, projected at the same layers onto the direction of a logistic regression.\n"
    )
    if results is None:
        return f"{text}\nNot measured.\n"
    return "\n".join([text, _methods(results), _by_trait(results), _order(results), _LOGISTIC])


def _methods(results: Record) -> str:
    styles = {name: found for name, found in results["styles"].items() if found}
    head = ["method", *(f"{style} rows: {what}" for style in styles for what in _STATISTICS)]
    rows = [
        [label]
        + [
            pm(found["methods"][method].get(statistic))
            for found in styles.values()
            for statistic in _STATISTICS.values()
        ]
        for method, label in results["methods"].items()
    ]
    return table(head, rows)


#: What is shown of each style, and its key in the results.
_STATISTICS = {
    "AUC": "auc",
    "AUC, same prompts": "auc_same_prompts",
    "precision at 5%": "precision@0.05",
}


def _by_trait(results: Record) -> str:
    styles = {name: found for name, found in results["styles"].items() if found}
    head = ["trait", "layer", "planted"]
    wanted = ("tfidf", "judge", "none", "last_prompt", "generate", "averaged", "combined")
    shown = [method for method in wanted if method in results["methods"]]
    head += [f"{style}: {results['methods'][m]}" for style in styles for m in shown]
    rows = []
    for trait, about in results["traits"].items():
        cells = [trait, str(about["layer"]), f"{about['kept']} and {about['written']}"]
        for found in styles.values():
            methods = found["traits"].get(trait, {}).get("methods")
            cells += [pm(methods[m]["auc"]) if methods else "not measured" for m in shown]
        rows.append(cells)
    return f"AUC by trait.\n\n{table(head, rows)}"


def _order(results: Record) -> str:
    head = ["trait", "normal", "mild", "strong", "mild − normal", "strong − mild", "in order"]
    rows = []
    for trait, found in results["order"].items():
        if found is None:
            rows.append([trait, *["not measured"] * 6])
            continue
        bands = [pm(found["bands"][name]) for name in ("normal", "mild", "strong")]
        steps = [pm(found[name]) for name in ("mild_minus_normal", "strong_minus_mild")]
        verdict = "yes" if found["beyond_chance"] else "within chance"
        rows.append([trait, *bands, *steps, verdict if found["ordered"] else "NO"])
    return (
        "Mean exact projection difference of three datasets whose strength the judge knows.\n\n"
        + table(head, rows)
    )


def datasets(results: Record | None) -> str:
    """Twelve assistants' answers to the same instructions, screened for every trait."""
    text = (
        "## Twelve assistants, screened\n\n"
        "`personavec screen chats.jsonl --natural generate --by source --by topic --top 100`: 805 "
        "instructions, each answered by 12 assistants. Mean projection difference to the embedded "
        "model's own answers in standard deviations on neutral prompts, with 95% intervals over "
        "prompts: how far finetuning on that assistant's answers would push the model.\n"
    )
    if results is None:
        return f"{text}\nNot measured.\n"
    traits = results["traits"]
    sources = sorted({g["group"] for g in next(iter(traits.values()))["groups"]["source"]})
    rows = []
    for source in sources:
        cells = [source]
        for record in traits.values():
            group = next(g for g in record["groups"]["source"] if g["group"] == source)
            cells.append(f"{_in_sigma(group, record['sigma'])}, {group['rank']}.")
        rows.append(cells)
    controls = [
        [
            trait,
            pm(record["controls"]["length"].get("spearman"), "value"),
            _effects(record["controls"]["random"]),
        ]
        for trait, record in traits.items()
    ]
    return "\n".join(
        [
            text,
            table(["assistant", *(f"{trait}, rank" for trait in traits)], rows),
            "Is it only length? Rank correlation of the difference with the response's length; and "
            "beside the trait's effect (mean over spread), those of random directions.\n",
            table(["trait", "correlation with length", "effect; random directions"], controls),
            "The rows of the highest difference, as they begin.\n",
            table(["trait", "row", "difference", "tokens", "prompt", "response"], _rows(traits)),
            READING,
        ]
    )


def _rows(traits: Record) -> list[list[str]]:
    return [
        [
            trait,
            row["id"],
            f"{row['difference']:+.1f}",
            str(row["n_tokens"]),
            *(_begin(row["messages"][i]["content"]) for i in (-2, -1)),
        ]
        for trait, record in traits.items()
        for row in record["ranked"]["high"][:_SHOWN]
    ]


def _begin(text: str) -> str:
    words = " ".join(text.split()).replace("|", "/").replace("`", "'")
    return words if len(words) <= _CHARACTERS else f"{words[:_CHARACTERS].rstrip()} …"


READING = """\
How it reads. Among assistants the order is plausible: llama-2-chat, the most guarded of the
twelve, is lowest on evil and impolite and highest on optimistic and sycophantic; text-davinci,
which answers curtly, is highest on apathetic and impolite. Whole datasets are another matter:
hardly any trait's effect lies outside those of random directions at its layer, so that a mean
alone does not tell a trait from any other difference of style. The top rows for apathetic read as
they should. The top rows for evil do not: they are lists and plain facts where the model itself
would have apologised or refused, and the distance from that apology is what is measured.
Degenerate rows (a token, or one word a thousand times) rank high on several traits at once: none
of these traits, but rows that a data team would want to see. What to read here is the order of
datasets, not the sign.
"""


def _effects(control: Record) -> str:
    if "trait" not in control:
        return control.get("why", "not measured")
    found = [d["effect"] for d in control["directions"] if d["effect"] is not None]
    own = control["trait"]["effect"]
    return f"{own:+.2f}; {min(found):+.2f} to {max(found):+.2f}" if found else f"{own:+.2f}"


def _in_sigma(group: Record, sigma: float) -> str:
    mean, low, high = (group[key] / sigma for key in ("mean", "low", "high"))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
