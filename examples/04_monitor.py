# %% [markdown]
# # Watch a conversation, token by token and turn by turn
#
# The projection of a model's activations onto a persona vector says how far an answer lies along
# a trait, without a judge. A reading is given in σ: standard deviations of answers to neutral
# prompts.

# %%
import json
import os
from pathlib import Path

import personavec as pv
from personavec.monitor import MonitorConfig, dialogues

OUT, ROWS = Path(os.environ.get("OUT", "out/examples/monitor")), int(os.environ.get("ROWS", 40))
OUT.mkdir(parents=True, exist_ok=True)

loaded = pv.load_model("smollm2")
vectors = [pv.load_vector(name) for name in ("apathetic", "humorous")]

# %% [markdown]
# A conversation that begins plainly and turns listless. The answers are the trait spec's own
# examples.

# %%
spec, _ = pv.load_trait("apathetic")
turns = [("What is the capital of France?", "The capital of France is Paris.")]
listless = [each for pair in spec.judge_instruction for each in pair.examples]
turns += [(each.question, each.pos) for each in listless]
conversation = []
for question, answer in turns:
    conversation.append({"role": "user", "content": question})
    conversation.append({"role": "assistant", "content": answer})

# %% [markdown]
# Every answer is read twice: at the last token before it, which forecasts it, and over its
# tokens. In a notebook the tokens are coloured: orange toward the trait, blue away from it.

# %%
readings = pv.read_conversation(loaded, vectors, conversation, tokens=True)
for reading in readings:
    if reading.trait == "apathetic":
        before, answer = reading.prompt_last_sigma, reading.response_mean_sigma
        print(f"turn {reading.turn}: before the answer {before:+.1f} σ, the answer {answer:+.1f} σ")
readings

# %% [markdown]
# A log of many conversations is read in one go. An alarm is raised where a conversation's answers
# drift further than ordinary conversations do. Here the log is ordinary but for the one above.

# %%
log = OUT / "log.jsonl"
rows = [list(each.messages) for each in dialogues()[:ROWS]]
log.write_text("".join(json.dumps({"messages": row}) + "\n" for row in [*rows, conversation]))
results = pv.monitor.run(loaded, vectors, log, OUT / "monitor", MonitorConfig())
for trait, found in results.traits.items():
    highest = f"the highest {found.max:+.1f} σ"
    print(f"{trait}: answers {found.mean:+.1f} σ, {highest}, {found.alarms} alarms")

# %% [markdown]
# The results show themselves; `report.html` in the folder has the turns with the highest
# readings.

# %%
results
