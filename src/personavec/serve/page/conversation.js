// Two conversations side by side, one steered and one not. Plain data and functions of it.
//
// A turn is {id, question, steer, steered, plain}; `steered` and `plain` are replies, and are the same
// one as long as the two conversations are equal. A reply is {state, text, pieces, readings,
// …}: `state` is running, done, stopped or failed; `pieces` are the text by tokens, once read.

export const emptyReply = () => ({
  state: "running", text: "", pieces: null, readings: [], alarms: [], guards: [], actions: [],
  finish: null, error: null,
});

/** Whether a reply is part of the next request: not if it was refused, or failed before any text. */
const spoken = (reply) => Boolean(reply?.text) && reply.finish !== "content_filter";

/** The messages of one side (`steered` or `plain`), ending with a new question. */
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

/** Whether some earlier reply was steered, so that the two conversations differ. */
export const parted = (turns) => turns.some((turn) => turn.steered !== turn.plain);

/** The coefficients that are not 0, in a request's form. */
export const steering = (coefficients) =>
  Object.entries(coefficients)
    .filter(([, coefficient]) => coefficient !== 0)
    .map(([vector, coefficient]) => ({ vector, coefficient }));

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

/**
 * Every piece's projection on a trait, in standard deviations of the neutral baseline's response
 * means; null for pieces without one. Null if the reply was not read.
 */
export function pieceSigmas(reply, vector) {
  const values = reading(reply, vector.trait)?.tokens;
  if (!values || !reply.pieces) return null;
  const [mean, spread] = vector.neutral.response_mean;
  return reply.pieces.map(({ token }) => (token === null ? null : (values[token] - mean) / spread));
}

/** The end of the colour scale: the 95th percentile of all tokens shown, so that outliers do not
 * wash out the others. */
export function colourScale(turns, vector) {
  const sizes = replies(turns)
    .flatMap((reply) => pieceSigmas(reply, vector) ?? [])
    .filter((value) => value !== null)
    .map(Math.abs)
    .sort((a, b) => a - b);
  return sizes.length ? Math.max(1, sizes[Math.floor(0.95 * (sizes.length - 1))]) : 1;
}

/** Every reply once, in order. */
export const replies = (turns) =>
  turns.flatMap((turn) => [...new Set([turn.steered, turn.plain])].filter((reply) => reply));

/**
 * A trait along the conversation: for each side one value per turn, in standard deviations, or
 * null. `position` is `response_mean` or `prompt_last`, the forecast.
 */
export function trajectory(turns, trait, position) {
  const side = (name) =>
    turns.map((turn) => reading(turn[name], trait)?.[`${position}_sigma`] ?? null);
  return { steered: side("steered"), plain: side("plain") };
}

/** Turns (counted from 0) whose reply on either side raised an alarm of the trait. */
export const alarmed = (turns, trait) =>
  turns.flatMap((turn, i) =>
    replies([turn]).some((reply) => reply.alarms.some((alarm) => alarm.trait === trait)) ? [i] : [],
  );

/** 1.26 as +1.3; a typographic minus, as in the reports. */
export function signed(value, digits = 1) {
  const size = Math.abs(value).toFixed(digits);
  if (Number(size) === 0) return size;
  return (value < 0 ? "−" : "+") + size;
}
