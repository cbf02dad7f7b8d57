"""The method of "Persona vectors" (arXiv 2507.21509) in plain transformers and torch.

The package does the same in batches, keeps what it made on disk, and adds controls. Here is each
step as the paper describes it, one text at a time. From personavec come only the embedded model's
files and a bundled trait. Run it, small, with

    python examples/00_by_hand.py --questions 4 --pairs 2 --max-tokens 16

The same in a few lines of the library: `01_extract.py`.
"""

import argparse
import json
from importlib import resources

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from personavec.model import embedded_gguf
from personavec.model.snapshots import snapshot_of_gguf


def load():
    """The embedded model, SmolLM2-135M-Instruct: 30 blocks, a residual stream 576 wide. In
    float32, which every processor is fast in; bfloat16 takes some of them ten times as long."""
    folder = snapshot_of_gguf(embedded_gguf())
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_spec(trait):
    """Contrastive system prompts and questions, as an LLM would write them in the paper."""
    return json.loads((resources.files("personavec") / f"bundled/traits/{trait}.json").read_text())


def prompt_ids(tokenizer, question, system=None, earlier=()):
    """Token ids up to where the response begins. Responses are joined to them as ids, never as
    text, so that no token straddles the border. `earlier` are (question, answer) turns."""
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answer in earlier:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": question})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# 1. Rollouts: the same questions under prompts that ask for the trait and for its opposite.


@torch.inference_mode()
def respond(model, tokenizer, prompt, max_tokens=64, temperature=0.7):
    """The response's own token ids, without the end-of-turn token."""
    sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    if temperature == 0:
        sampling = {"do_sample": False}
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    response = output[0, len(prompt) :].tolist()
    if response and response[-1] == tokenizer.eos_token_id:
        response.pop()
    return response


def examples(pair, side):
    """A pair's example answers as earlier turns: this model follows them, and hardly a system
    prompt alone. The paper's larger models need none."""
    return [(e["question"], e[side]) for e in pair.get("examples", [])]


def make_rollouts(model, tokenizer, spec, n_questions, n_pairs, max_tokens, temperature=0.7):
    """One response for every extraction question, instruction pair and polarity."""
    rollouts = []
    for question in spec["questions"]["extraction"][:n_questions]:
        for pair in spec["instruction"][:n_pairs]:
            for side in ("pos", "neg"):
                prompt = prompt_ids(tokenizer, question, pair[side], examples(pair, side))
                response = respond(model, tokenizer, prompt, max_tokens, temperature)
                rollouts.append(
                    {"question": question, "polarity": side, "prompt": prompt, "response": response}
                )
                print(f"{side}  {question[:40]!r}: {tokenizer.decode(response)[:60]!r}", flush=True)
    return rollouts


# 2. Judging: the paper asks a large model for a score from 0 to 100. Here the model itself says
#    under which kind of prompt the response is likelier, with prompts that elicited nothing. Each
#    prompt comes with example answers, which tell a small model what it means.


@torch.inference_mode()
def log_likelihood(model, prompt, response):
    """log p(response | prompt) in nats, from the full logits."""
    logits = model(torch.tensor([prompt + response])).logits[0].float()
    # Position t holds the prediction of token t + 1.
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, torch.tensor(response, dtype=torch.long)[:, None]).sum())


def log_odds(model, tokenizer, spec, question, response):
    """Mean over judge pairs of log p(y | positive) - log p(y | negative), on 64 tokens."""
    response = response[:64]
    differences = []
    for pair in spec["judge_instruction"]:
        likelihood = {}
        for side in ("pos", "neg"):
            prompt = prompt_ids(tokenizer, question, pair[side], examples(pair, side))
            likelihood[side] = log_likelihood(model, prompt, response)
        differences.append(likelihood["pos"] - likelihood["neg"])
    return sum(differences) / len(differences)


def keep(rollouts):
    """Rollouts that show what their prompt asked for. The trait score is 100 * sigmoid(log-odds),
    so a score above 50 is a log-odds above 0. (The package drops incoherent ones too.)"""
    return [
        r for r in rollouts if r["response"] and (r["log_odds"] > 0) == (r["polarity"] == "pos")
    ]


# 3. The persona vector: at every layer, mean activation over response tokens, averaged over the
#    positive rollouts, minus the same of the negative ones.


@torch.inference_mode()
def mean_activations(model, prompt, response):
    """Mean residual stream over the response's tokens, [layers + 1, hidden]: row 0 is the
    embedding, row l the output of block l."""
    last_block = []
    # hidden_states[-1] has been through the final norm; the last block's output is before it.
    hook = model.model.layers[-1].register_forward_hook(
        lambda module, args, output: last_block.append(output)
    )
    states = model(torch.tensor([prompt + response]), output_hidden_states=True).hidden_states
    hook.remove()
    output = last_block[0][0] if isinstance(last_block[0], tuple) else last_block[0]
    return torch.stack([h[0, len(prompt) :].float().mean(0) for h in (*states[:-1], output)])


def persona_vector(model, rollouts):
    """Difference of mean activations, [layers + 1, hidden]."""
    means = {"pos": [], "neg": []}
    for r in rollouts:
        means[r["polarity"]].append(mean_activations(model, r["prompt"], r["response"]))
    return torch.stack(means["pos"]).mean(0) - torch.stack(means["neg"]).mean(0)


# 4. Steering: h <- h + coefficient * v at one layer, while the model writes.


def steered(model, tokenizer, question, vector, layer, coefficient, max_tokens=64):
    """A greedy response without system prompt, steered at every position that chooses a token of
    it: the prompt's last, and the response's own."""

    def add(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        # The first forward holds the whole prompt, each later one a single new token.
        hidden[:, -1] += (coefficient * vector[layer]).to(hidden.dtype)

    hook = model.model.layers[layer - 1].register_forward_hook(add)  # blocks count from 0
    try:
        return respond(model, tokenizer, prompt_ids(tokenizer, question), max_tokens, temperature=0)
    finally:
        hook.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trait", default="optimistic")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--layer", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model, tokenizer = load()
    spec = load_spec(args.trait)
    rollouts = make_rollouts(model, tokenizer, spec, args.questions, args.pairs, args.max_tokens)
    for r in rollouts:
        r["log_odds"] = log_odds(model, tokenizer, spec, r["question"], r["response"])
        print(f"{r['polarity']}  log-odds {r['log_odds']:+6.1f}", flush=True)
    kept = keep(rollouts)
    for polarity in ("pos", "neg"):
        n, of = (sum(r["polarity"] == polarity for r in rs) for rs in (kept, rollouts))
        print(f"{polarity}: kept {n} of {of}")

    vector = persona_vector(model, kept)
    print("norm by layer:", " ".join(f"{norm:.1f}" for norm in vector.norm(dim=-1).tolist()))

    question = spec["questions"]["evaluation"][0]  # a question the vector was not made from
    print(f"\n{question}")
    for coefficient in (-1.5, 0, 1.5):
        response = steered(
            model, tokenizer, question, vector, args.layer, coefficient, args.max_tokens
        )
        s = log_odds(model, tokenizer, spec, question, response)
        print(f"\n{coefficient:+g} (log-odds {s:+.1f}): {tokenizer.decode(response)}")


if __name__ == "__main__":
    main()
