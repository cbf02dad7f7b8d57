# %% [markdown]
# # Extract a persona vector, check it, steer with it
#
# A persona vector is the direction in which a model's activations differ between answers that
# show a trait and answers that show its opposite. Here the trait is optimism, and the model the
# small one that comes with the package. `00_by_hand.py` does the same in plain transformers, step
# by step.

# %%
import os
from pathlib import Path

import personavec as pv

OUT = Path(os.environ.get("OUT", "out/examples/extract"))
QUESTIONS, TOKENS = int(os.environ.get("QUESTIONS", 10)), int(os.environ.get("TOKENS", 32))

loaded = pv.load_model("smollm2")  # in the precision that is fast on this machine
print(f"{loaded.identity.name}, {loaded.identity.n_layers} layers, {loaded.identity.dtype}")

# %% [markdown]
# A trait is written down as pairs of system prompts, one that asks for the trait and one that
# asks for its opposite, and as questions to ask under both.

# %%
spec, origin = pv.load_trait("optimistic")
print(spec.description)
print("+", spec.instruction[0].pos)
print("−", spec.instruction[0].neg)
print("?", spec.questions.extraction[0])

# %% [markdown]
# Extraction answers the questions under both kinds of prompts, keeps the answers that show what
# they should, subtracts their mean activations, and selects a layer. Then it steers other
# questions with the vector, and with random directions of the same length, to see whether it does
# anything. This takes minutes; if it is killed, the same call goes on where it stopped.

# %%
config = pv.ExtractConfig(preset="quick", questions=QUESTIONS, max_tokens=TOKENS)
results = pv.extract.run(loaded, spec, OUT, config, origin=origin)
print(results.verdict.words)
for dose in results.dose_response:
    interval = f"[{dose.low:+.1f}, {dose.high:+.1f}]"
    print(f"α = {dose.coefficient:+g}: log-odds {dose.log_odds:+.1f} {interval}")

# %% [markdown]
# The vector is a folder. In a notebook it shows itself: log-odds of the trait against the
# coefficient, with the stretch in which answers stay coherent.

# %%
vector = pv.load_vector(OUT)
vector

# %% [markdown]
# To steer is to add a multiple of the vector while the model writes. The question is one that the
# vector was not made from.

# %%
question = spec.questions.evaluation[-1]
low, high = vector.coherent_range or (-1.0, 1.0)
print(question)
for coefficient in (low, 0.0, high):
    with pv.steer(loaded.model, vector, coefficient):
        print(f"{coefficient:+g}: {pv.respond(loaded, question, max_tokens=TOKENS)}")
