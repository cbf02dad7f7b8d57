// A conversation as a file: JSON that is checked in full when it is loaded.
import { BadFile, flag, list, nullable, number, oneOf, optional, record, text, whole } from "./checks.js";
import { SIDES } from "./conversation.js";

const WHAT = "personavec conversation", FORMAT = 1;
/** The longest file that is read, in bytes. */
const LONGEST = 64 * 2 ** 20;

const name = text(1000);
const steer = list(record({ vector: name, coefficient: number() }), 64);
const settings = record({
  system: text(), maxTokens: whole(), temperature: number(0, 2), seed: whole(Number.MAX_SAFE_INTEGER),
});
const reply = record({
  state: oneOf("done", "stopped", "failed"),
  text: text(),
  finish: nullable(name),
  pieces: nullable(list(record({ text: text(), token: nullable(whole()) }), 1e5)),
  readings: list(record({
    trait: name, layer: whole(), prompt_last_sigma: number(), response_mean_sigma: nullable(number()),
    sigmas: nullable(list(number(), 1e5)),
  }), 1000),
  alarms: list(record({
    trait: name, scope: oneOf("conversation", "server"), level: number(), limit: number(), steered: flag,
  })),
  guards: list(record({
    condition: name, forecast: number(), did: oneOf("steer", "cap", "refuse"), amount: optional(number()),
    steered: flag,
  })),
  actions: list(record({
    vector: name, coefficient: optional(number()), asked: optional(number()),
  })),
  error: nullable(record({ message: text(10000) })),
});
const turn = record({
  model: name, question: text(), settings, steer: record({ a: steer, b: steer }),
  /** Of equal replies only one is kept. */
  both: optional(reply), a: optional(reply), b: optional(nullable(reply)),
});
const file = record({
  what: oneOf(WHAT), format: oneOf(FORMAT), trait: nullable(name),
  compare: oneOf("unsteered", "setting", "nothing"),
  turns: list(turn),
});

/** The text of a file. Sigmas are rounded to a thousandth. */
export function dump({ trait, compare, turns }) {
  const written = {
    what: WHAT, format: FORMAT, trait, compare,
    turns: turns.map(({ model, question, settings, steer, a, b }) => ({
      model, question, settings, steer, ...(a === b ? { both: a } : { a, b }),
    })),
  };
  const rounded = (key, value) =>
    key === "sigmas" && value ? value.map((one) => Math.round(one * 1000) / 1000) : plainError(key, value);
  return JSON.stringify(written, rounded);
}

/** An error's message is no property of its own. */
const plainError = (key, value) => (key === "error" && value ? { message: value.message } : value);

/** The conversation in a file: {trait, compare, turns}. Throws BadFile. */
export async function load(given) {
  if (given.size > LONGEST) throw new BadFile("it has more than 64 MiB");
  let parsed;
  try {
    parsed = JSON.parse(await given.text());
  } catch {
    throw new BadFile("it is not JSON");
  }
  if (parsed?.what !== WHAT) throw new BadFile("it is no conversation that this page has saved");
  if (parsed.format !== FORMAT) throw new BadFile(`its format is ${shown(parsed.format)}, and this page reads ${FORMAT}`);
  const found = file(parsed, "it");
  return { ...found, turns: found.turns.map(restored) };
}

const shown = (value) => String(JSON.stringify(value)).slice(0, 20);

function restored({ both, a = both, b = both ?? null, ...rest }, id) {
  if (!a) throw new BadFile(`it.turns[${id}] has no reply`);
  for (const side of SIDES) consistent({ a, b }[side], `it.turns[${id}].${both ? "both" : side}`);
  return { ...rest, id, a, b };
}

/** Pieces make up the text, and every token has a value where any has. */
function consistent(reply, at) {
  if (!reply?.pieces) return;
  if (reply.pieces.map((piece) => piece.text).join("") !== reply.text) {
    throw new BadFile(`${at}.pieces do not make up its text`);
  }
  const most = Math.max(-1, ...reply.pieces.map(({ token }) => token ?? -1));
  if (reply.readings.some(({ sigmas }) => sigmas && sigmas.length <= most)) {
    throw new BadFile(`${at}.readings have too few tokens`);
  }
}
