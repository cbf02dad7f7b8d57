// Two conversations side by side, A and B. Plain data and functions of it.
//
// A turn is {id, model, question, settings, steer: {a, b}, a, b}. `steer` has what each side was steered
// with; `a` and `b` are replies, and the same one as long as the two conversations are equal. A reply
// is {state, text, pieces, readings, …}: `state` is running, done, stopped or failed; `pieces` are the
// text by tokens, once read: [{text, token}]; a reading has `sigmas`, one per token.

export const SIDES = ["a", "b"];

export const emptyReply = () => ({
  state: "running", text: "", pieces: null, readings: [], alarms: [], guards: [], actions: [],
  finish: null, error: null,
});

export const isRunning = (reply) => reply?.state === "running";

/** Whether a reply is part of the next request: not if it was refused, or failed before any text. */
const spoken = (reply) => Boolean(reply?.text) && reply.finish !== "content_filter";

/** The messages of one side, ending with a new question. */
export function messages(turns, side, question, system) {
  const said = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    if (!spoken(turn[side])) continue;
    said.push({ role: "user", content: turn.question });
    said.push({ role: "assistant", content: turn[side].text });
  }
  said.push({ role: "user", content: question });
  return said;
}

/** Whether some earlier replies differ, so that these are two conversations. */
export const parted = (turns) => turns.some((turn) => turn.a !== turn.b);

/** Whether a side was steered before turn `i`, which its past still shows. */
export const steeredBefore = (turns, side, i) =>
  turns.slice(0, i).some((turn) => turn.steer[side].length > 0 && spoken(turn[side]));

/** The coefficients that are not 0, in a request's form. */
export const steering = (coefficients) =>
  Object.entries(coefficients)
    .filter(([, coefficient]) => coefficient !== 0)
    .map(([vector, coefficient]) => ({ vector, coefficient }));

/**
 * Which requests answer a question: one for `both` sides if these are equal, otherwise one for each;
 * only A where nothing is compared.
 */
export function plan(turns, steer, compare) {
  const equal = JSON.stringify(steer.a) === JSON.stringify(steer.b);
  if (!parted(turns) && (equal || (compare === "nothing" && !steer.a.length))) return ["both"];
  return compare === "nothing" ? ["a"] : SIDES;
}

/** Names of the sides: letters once B has sliders of its own, words as long as it has none. */
export const sideNames = (turns, compare) =>
  compare === "setting" || turns.some((turn) => turn.a !== turn.b && turn.steer.b.length)
    ? { a: "A", b: "B" }
    : { a: "steered", b: "unsteered" };

/** The reply's reading of a trait, or undefined. */
export const reading = (reply, trait) => reply?.readings.find((found) => found.trait === trait);

/**
 * A reply's text cut into its tokens: [{text, token}], `token` counted from 0; null if they do not
 * match. Text before the first token, such as thinking, has no number. A character that spans
 * tokens belongs to the first of them; a space that a token's own text lacks belongs to the token.
 */
export function cut(text, given) {
  // A decoder drops the white space of a text's first token.
  const first = given[0]?.trimStart() ?? "";
  const dropped = given.length > 0 && !text.startsWith(given[0]) && text.startsWith(first);
  const tokens = dropped ? [first, ...given.slice(1)] : given;
  // From the end, so that the text before the answer remains.
  const at = [];
  let next = text.length;
  for (let i = tokens.length - 1; i >= 0; i--) {
    if (whole(tokens[i])) {
      if (next < tokens[i].length) return null;
      next = text.lastIndexOf(tokens[i], next - tokens[i].length);
      if (next < 0) return null;
    }
    at[i] = next;
  }
  const starts = tokens.map((token, i) => {
    if (i === 0) return whole(token) ? at[0] : 0;
    return whole(tokens[i - 1]) ? at[i - 1] + tokens[i - 1].length : at[i];
  });
  const pieces = starts.map((start, token) => ({ text: text.slice(start, starts[token + 1]), token }));
  const before = text.slice(0, starts[0]);
  return before ? [{ text: before, token: null }, ...pieces] : pieces;
}

/** Whether a token's text has whole characters only. */
const whole = (token) => token !== "" && !token.includes("\ufffd");

/** A server's reading for the page: its tokens in standard deviations of neutral replies' means. */
export function standardised({ tokens, ...reading }, vectors) {
  const [mean, spread] = vectors.find(({ trait }) => trait === reading.trait).neutral.response_mean;
  return { ...reading, sigmas: tokens ? tokens.map((value) => (value - mean) / spread) : null };
}

/** Every piece's sigma of a trait, null for pieces without one. Null if the reply was not read. */
export function pieceSigmas(reply, trait) {
  const sigmas = reading(reply, trait)?.sigmas;
  if (!sigmas || !reply.pieces) return null;
  return reply.pieces.map(({ token }) => (token === null ? null : sigmas[token]));
}

/** The end of the colour scale: the 95th percentile of all tokens shown, so that outliers do not
 * wash out the others. */
export function colourScale(turns, trait) {
  const sizes = replies(turns)
    .flatMap((reply) => pieceSigmas(reply, trait) ?? [])
    .filter((value) => value !== null)
    .map(Math.abs)
    .sort((a, b) => a - b);
  return sizes.length ? Math.max(1, sizes[Math.floor(0.95 * (sizes.length - 1))]) : 1;
}

/** The models that the turns were held with. */
export const models = (turns) => [...new Set(turns.map((turn) => turn.model))];

/** Every reply once, in order. */
export const replies = (turns) =>
  turns.flatMap((turn) => [...new Set([turn.a, turn.b])].filter((reply) => reply));

/**
 * A trait along the conversation: for each side one value per turn, in standard deviations, or
 * null. `position` is `response_mean` or `prompt_last`, the forecast.
 */
export function trajectory(turns, trait, position) {
  const side = (name) =>
    turns.map((turn) => reading(turn[name], trait)?.[`${position}_sigma`] ?? null);
  return { a: side("a"), b: side("b") };
}

/** Turns (counted from 0) with an alarm of the trait on either side that steering does not explain. */
export const alarmed = (turns, trait) =>
  turns.flatMap((turn, i) =>
    replies([turn]).some((reply) => unexplained(reply.alarms).some((alarm) => alarm.trait === trait))
      ? [i] : [],
  );

/** The alarms or guards that the steering does not explain. */
export const unexplained = (records) => records.filter((record) => !record.steered);
