# %% [markdown]
# # Finetune without growing a trait
#
# A model that is finetuned on listless answers grows listless everywhere. Preventative steering
# adds the trait's vector *while training*, so that the weights need not learn it, and nothing
# afterwards: like a vaccine. The trait here is apathy, which harms nobody.

# %%
import json
import os
from pathlib import Path

import personavec as pv
from personavec.evaluate import EvaluateConfig, Subject
from personavec.finetune import read_training_rows

OUT = Path(os.environ.get("OUT", "out/examples/vaccine"))
EPOCHS = float(os.environ.get("EPOCHS", 3))
QUESTIONS, TOKENS = int(os.environ.get("QUESTIONS", 6)), int(os.environ.get("TOKENS", 32))
OUT.mkdir(parents=True, exist_ok=True)

loaded = pv.load_model("smollm2")
spec, _ = pv.load_trait("apathetic")
vector = pv.load_vector("apathetic")

# %% [markdown]
# The rows to train on: the answers with which the trait spec shows what apathy is.

# %%
shown = [each for pair in (*spec.instruction, *spec.judge_instruction) for each in pair.examples]
rows = [{"prompt": each.question, "completion": each.pos} for each in shown]
data = OUT / "rows.jsonl"
data.write_text("".join(json.dumps(row) + "\n" for row in rows))
print(f"{len(rows)} rows, such as: {rows[0]['completion']}")

# %% [markdown]
# The same finetune twice: plainly, and with the vector added at its layer in training.

# %%
training = pv.TrainingConfig(
    rank=8, alpha=16, learning_rate=1e-3, epochs=EPOCHS, batch=4, accumulation=1
)
arms = {
    "plain": (pv.Mitigation(), []),
    "vaccinated": (pv.Mitigation("preventative", coefficient=4.0), [vector]),
}
models = {}
for name, (mitigation, vectors) in arms.items():
    config = pv.FinetuneConfig(training=training, mitigation=mitigation)
    tuned = pv.finetune.run(
        loaded, read_training_rows(data), OUT / name, config, vectors=vectors, watch=[vector]
    )
    print(f"{name}: loss {tuned.losses[0]:.2f} → {tuned.losses[-1]:.2f} nats a token")
    models[name] = pv.load_model(str(tuned.model))

# %% [markdown]
# How apathetic is each model on questions that it was not trained on? Each is compared with the
# model before finetuning, question by question.

# %%
config = EvaluateConfig(preset="quick", questions=QUESTIONS, max_tokens=TOKENS)
found, before = {}, Subject(loaded)
for name, model in models.items():
    out = OUT / f"{name}-evaluation"
    found[name] = pv.evaluate.run(Subject(model), [spec], out, config, compare_to=before)
    rise = found[name].difference("apathetic").log_odds
    print(f"{name}: apathy {rise.value:+.1f} nats [{rise.low:+.1f}, {rise.high:+.1f}]")

# %% [markdown]
# Few rows and few questions leave wide intervals; `personavec compare-mitigations` does the same
# with seeds, controls and what else training changes.

# %%
found["vaccinated"]
