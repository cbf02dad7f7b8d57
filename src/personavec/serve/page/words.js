// How numbers and steering are spelled, on the page and in what it writes.

/** 1.26 as +1.3; a typographic minus, as in the reports. */
export function signed(value, digits = 1) {
  const size = Math.abs(value).toFixed(digits);
  if (Number(size) === 0) return size;
  return (value < 0 ? "−" : "+") + size;
}

/** 1.5 as +1.5, and 4 as +4. */
export const short = (value) => {
  const size = String(Math.round(Math.abs(value) * 100) / 100);
  return size === "0" ? size : (value < 0 ? "−" : "+") + size;
};

/** What a request was steered with: "humorous +1.00, evil −0.50". */
export const spelled = (steer) =>
  steer.map(({ vector, coefficient }) => `${vector} ${signed(coefficient, 2)}`).join(", ");

/** The same as a purpose: "toward humorous (+1) and away from evil (−0.5)". */
export const purpose = (steer) =>
  steer
    .map(({ vector, coefficient }) =>
      `${coefficient > 0 ? "toward" : "away from"} ${vector} (${short(coefficient)})`)
    .join(" and ");

/** The title of one side's reply. */
export function title(steer, before) {
  if (steer.length) return `Steered: ${spelled(steer)}`;
  return before ? "Steered before, now not" : "Unsteered";
}

/** "evil, humorous and shy" */
export const joined = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;

export function alarmText({ scope, level, limit }) {
  return `Drift over ${scope === "server" ? "all conversations" : "this conversation"}: ` +
    `the level is ${signed(level)}, the limit ${signed(limit)}.`;
}

export const guardText = (guard) =>
  `the forecast was ${signed(guard.forecast)} (${guard.condition}), so ${guardDid(guard)}.`;

export const guardDid = ({ did, amount }) =>
  ({
    steer: `the reply was steered by ${signed(amount ?? 0, 2)}`,
    cap: `the reply was capped at percentile ${amount}`,
    refuse: "the request was refused",
  })[did];

/** What alarms and guards were to be expected of a reply, in one line; "" if there are none. */
export function expectedText(steer, { alarms, guards }) {
  const traits = [...new Set(alarms.filter((one) => one.steered).map((one) => one.trait))];
  const fired = guards.filter((one) => one.steered);
  if (!traits.length && !fired.length) return "";
  const why = steer.length ? `Steered on purpose ${purpose(steer)}` : "Steered on purpose before";
  const parts = [];
  if (traits.length) parts.push(`${traits.length > 1 ? "alarms" : "an alarm"} of ${joined(traits)}`);
  parts.push(...fired.map((one) => `the guard ${one.condition} (${guardDid(one)})`));
  return `${why}, so ${joined(parts)} ${traits.length + fired.length > 1 ? "are" : "is"} expected.`;
}

/** The small print below a reply: how it ended, what was held back, its readings of one trait. */
export function footText(reply, found) {
  const parts = [];
  if (reply.state === "stopped") parts.push("Stopped before its end, so it was not read.");
  if (reply.finish === "length") parts.push("Cut off at the longest length.");
  for (const { vector, coefficient, asked } of reply.actions) {
    if (asked !== undefined) parts.push(`${vector} was held at ${signed(coefficient, 2)}.`);
  }
  if (found) {
    const mean = found.response_mean_sigma;
    parts.push(`${found.trait}: forecast ${signed(found.prompt_last_sigma)} σ, ` +
      `reply ${mean === null ? "empty" : `${signed(mean)} σ`}`);
  }
  return parts.join(" ");
}
