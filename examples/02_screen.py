# %% [markdown]
# # Screen training data for what it would teach
#
# Rows of data are projected onto persona vectors before anything is trained. Rows that lie far
# along a vector would push a model toward its trait. Here ordinary dialogues are mixed with a few
# listless answers, and the screen is to find these.

# %%
import json
import os
from pathlib import Path

import personavec as pv
from personavec.monitor import dialogues
from personavec.screen import ScreenConfig

OUT, ROWS = Path(os.environ.get("OUT", "out/examples/screen")), int(os.environ.get("ROWS", 40))
OUT.mkdir(parents=True, exist_ok=True)

loaded = pv.load_model("smollm2")
vectors = [pv.load_vector(name) for name in ("apathetic", "humorous", "impolite")]

# %% [markdown]
# The rows: bundled dialogues, and the trait spec's own examples of apathetic answers.


# %%
def row(question, answer, source):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "source": source}


spec, _ = pv.load_trait("apathetic")
shown = [each for pair in spec.judge_instruction for each in pair.examples]
ordinary = [each.messages for each in dialogues()]
listless = [row(each.question, each.pos, "listless") for each in shown]
plain = [row(m[0]["content"], m[1]["content"], "ordinary") for m in ordinary]
data, clean = OUT / "rows.jsonl", OUT / "clean.jsonl"
data.write_text("".join(json.dumps(each) + "\n" for each in [*plain[:ROWS], *listless]))
clean.write_text("".join(json.dumps(each) + "\n" for each in plain[ROWS : 2 * ROWS]))
print(f"{ROWS} ordinary rows and {len(listless)} listless ones; {ROWS} others to compare with")

# %% [markdown]
# Every row's response is projected, and compared with the state before it: what the model was about
# to say anyway. Rows beyond 95% of the clean ones are flagged.

# %%
config = ScreenConfig(by=("source",))
results = pv.screen.run(loaded, vectors, [data], OUT / "screen", config, reference=clean)
for group in results.traits["apathetic"].groups["source"]:
    print(f"{group.group}: {group.flagged} of {group.n} rows flagged as apathetic")
for found in results.traits["apathetic"].ranked.high[:3]:
    print(f"{found.value:+.2f}  {found.messages[-1]['content']}")

# %% [markdown]
# The results show themselves in a notebook. `report.html` in the folder has every flagged row,
# and `clean.jsonl` there the rows that are left.

# %%
results
