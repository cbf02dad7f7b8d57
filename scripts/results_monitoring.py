"""The tables of docs/results.md on monitoring: forecasts, alarms, capping, the soak."""

from __future__ import annotations

from collections.abc import Sequence

from results_tables import Record, log_odds, pm, share, table

CAPPING = """How it reads. Under a prompt that asks for the trait, the cap lowers evil and
sycophantic by one to two nats, and no other trait beyond chance; apathetic and hallucinating it
raises a little, which nothing here explains. It leaves the packaged task and neutral text alone,
but for hallucinating, where the perplexity at every position of given texts rises by a quarter. At
-2 the vector lowers every trait by more, at a higher perplexity, and costs four of seven
capability.
"""

_FAMILIES = {
    "all": "all conditions",
    "prompts": "eight system prompts",
    "examples": "0 to 20 examples",
}


def monitoring(
    calibrations: Sequence[Record],
    ordinary: Record | None,
    drift: Record | None,
    capping: Record | None,
    soak: Record | None,
) -> str:
    """All of the section; what was not run is named as not measured."""
    return "\n".join(
        [
            "## Monitoring and serving\n",
            forecasts(calibrations),
            alarms(ordinary),
            _caught(drift),
            _capping(capping),
            CAPPING if capping else "",
            _soak(soak),
        ]
    )


def forecasts(calibrations: Sequence[Record]) -> str:
    """The section on calibrations."""
    text = (
        "### The prompt forecasts the answer\n\n"
        "`personavec calibrate --vectors TRAIT`: Pearson's r of the last prompt token's projection "
        "with the judged log-odds of the answer that follows, on questions that fitted nothing, "
        "overall and within conditions, with 95% intervals over questions. *Held*: the share of "
        "answers inside the forecast's 90% interval.\n"
    )
    if not calibrations:
        return f"{text}\nNot measured.\n"
    head = ["trait", *(f"{label}: {of}" for label in _FAMILIES.values() for of in _OF), "held", "n"]
    rows = []
    for record in calibrations:
        found = record["results"]["correlations"]
        cells = [
            pm(found[family][of]) if family in found else "–" for family in _FAMILIES for of in _OF
        ]
        tested = record["results"]["tested_on"]["answers"]
        rows.append([record["trait"], *cells, pm(record["results"]["coverage"]), tested])
    return f"{text}\n{table(head, rows)}\n{_how_forecasts_read(calibrations)}"


_OF = ("overall", "within")


def _how_forecasts_read(calibrations: Sequence[Record]) -> str:
    overall, within = (
        [
            record["trait"]
            for record in calibrations
            if (record["results"]["correlations"]["all"][of]["low"] or 0) > 0
        ]
        for of in _OF
    )
    return (
        f"How it reads. The correlation's interval is above 0 over all conditions for "
        f"{', '.join(overall) or 'no trait'}; within conditions, where it no longer helps to know "
        f"which one it is, for {', '.join(within) or 'no trait'}.\n"
    )


def alarms(ordinary: Record | None) -> str:
    """The section on ordinary conversations, with the limits that were fitted on half of them."""
    text = (
        "### False alarms\n\n"
        "`make bundle STAGE=limits ORDINARY=dialogues.jsonl`: ordinary conversations in which the "
        "default chart alarms. Limits were fitted on the conversations of even rows, and are "
        "counted here on those of odd rows. Exact 95% intervals.\n"
    )
    if ordinary is None:
        return f"{text}\nNot measured.\n"
    limits = ordinary["limits"]
    rows = [
        [trait, share(found), f"{found['hits']} of {found['of']}", limits["server_alarms"][trait]]
        for trait, found in limits["traits"].items()
    ]
    rows.append(
        ["any", share(limits["any"]), f"{limits['any']['hits']} of {limits['any']['of']}", ""]
    )
    head = [
        "trait",
        "false alarms",
        "conversations",
        f"server alarms in {limits['server_turns']} turns",
    ]
    return f"{text}\n{table(head, rows)}"


def _caught(drift: Record | None) -> str:
    text = (
        "### Drift that is caught\n\n"
        "`make drift ORDINARY=dialogues.jsonl`: conversations that the model continues for three "
        "turns under a trait's most encouraging monitoring prompt, under its neutral one, and "
        "steered by the vector at the top of its coherent range; a catch is an alarm within those "
        "turns. Beside it the judged log-odds of the replies: where the model does not follow a "
        "prompt, nothing has drifted.\n"
    )
    if drift is None:
        return f"{text}\nNot measured.\n"
    rows = [
        [
            trait,
            arm,
            f"{share(found['caught'])} of {found['caught']['of']}",
            found["turns"] or "–",
            pm(found["log_odds"], digits=1),
        ]
        for trait, arms in drift.items()
        for arm, found in arms.items()
    ]
    head = ["trait", "continued under", "caught within 3 turns", "median turns", "log-odds"]
    return f"{text}\n{table(head, rows)}"


def _capping(capping: Record | None) -> str:
    text = (
        "### Capping beside addition\n\n"
        "`make capping`: answers to held-out questions, with one and the same sampling noise, "
        "under each trait's most encouraging "
        "monitoring prompt, with the projection bounded at a percentile of ordinary tokens, or a "
        "multiple of the vector added; and what the same does to the packaged task and to the "
        "perplexity of neutral texts, at every position of them. Differences are to the unsteered "
        "model, paired by question or item.\n"
    )
    if capping is None:
        return f"{text}\nNot measured.\n"
    rows = [
        [
            trait,
            arm,
            log_odds(found["expression"]),
            pm(found["minus_base"]["log_odds"], digits=1),
            f"{found['expression']['coherence']:.0f}",
            pm(found["capability_minus_base"]),
            pm(found["perplexity_ratio"]),
        ]
        for trait, arms in capping.items()
        for arm, found in arms.items()
    ]
    head = ["trait", "steering", "log-odds", "change", "coherence", "capability, change"]
    head += ["perplexity, of unsteered"]
    return f"{text}\n{table(head, rows)}"


def _soak(soak: Record | None) -> str:
    text = (
        "### A server under bad clients\n\n"
        "`make soak SOAK='--json out/soak.json'`: short requests with random cancels, malformed "
        "bodies, slow clients and time-outs. Replies are greedy, and rounding differs between "
        "batches: one that is not what the same request is answered alone is read by the model "
        "under the request's own prompt and steering, where none of its tokens may be far behind "
        "the greedy choice.\n"
    )
    if soak is None:
        return f"{text}\nNot measured.\n"
    rows = [[what, n] for what, n in sorted(soak["counts"].items())]
    rows.append(["places still held at the end", soak["held_at_the_end"]])
    memory = ", ".join(f"{value:.0f}" for value in soak["memory_mib"])
    behind = "; ".join(f"{name} {nats:.2f}" for name, nats in soak["nats_behind"].items())
    head = ["what", f"n of {soak['requests']}"]
    return (
        f"{text}\n{table(head, rows)}\n"
        f"Nats behind the greedy choice: {behind}. Resident memory at ten times: "
        f"{memory} MiB. {soak['seconds']:.0f} s, {soak['clients']} clients.\n"
    )
