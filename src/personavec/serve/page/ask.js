// Sends a question to the sides that answer it, and fills their replies as they stream.
import { ServerError, complete } from "./api.js";
import { cut, emptyReply, messages, standardised } from "./conversation.js";

/**
 * Answer the question of `turn` on `sides` (see `plan`). `put` gets the turn whenever it has changed.
 * Returns the final replies by side.
 */
export async function ask(server, turns, turn, sides, put, signal) {
  const replies = Object.fromEntries(sides.map((side) => [side, emptyReply()]));
  const change = (side, changes) => {
    replies[side] = { ...replies[side], ...changes };
    const a = replies.both ?? replies.a;
    put({ ...turn, a, b: replies.both ?? replies.b ?? null });
  };
  await Promise.all(sides.map((side) => {
    change(side, {});
    const own = side === "both" ? "a" : side;
    const request = body(server, turns, turn, own);
    return answer(request, server.vectors, signal, (changes) => change(side, changes));
  }));
  return replies;
}

function body(server, turns, { question, settings, steer }, side) {
  return {
    model: server.model,
    messages: messages(turns, side, question, settings.system),
    max_tokens: Math.min(settings.maxTokens, server.max_tokens),
    temperature: settings.temperature,
    seed: settings.seed,
    personavec: { steer: steer[side], monitor: server.vectors.map(({ trait }) => trait), tokens: true },
  };
}

/** Fill a reply from the server's stream. */
async function answer(request, vectors, signal, put) {
  let text = "";
  try {
    for await (const part of complete(request, signal)) {
      if (part.text) {
        text += part.text;
        put({ text });
        continue;
      }
      const { readings = [], alarms = [], guards = [], actions = [], tokens = [] } = part.said;
      put({
        state: "done", finish: part.finish, pieces: cut(text, tokens), alarms, guards, actions,
        readings: readings.map((reading) => standardised(reading, vectors)),
      });
    }
  } catch (error) {
    if (error.name === "AbortError") return put({ state: "stopped" });
    if (!(error instanceof ServerError)) console.error(error);
    put({ state: "failed", error });
  }
}

const SPOKEN = 600;

/** What a screen reader says once replies have ended: how, their texts, and alarms; not each token. */
export function announcement(replies, names) {
  const sides = Object.keys(replies);
  return sides.map((side) => {
    const { state, text, error, alarms } = replies[side];
    const who = side === "both" ? "Reply" : `Reply ${names[side]}`;
    const end = { done: "complete", stopped: "stopped", failed: "failed" }[state];
    const rest = text.length > SPOKEN ? ` … and ${text.length - SPOKEN} more characters` : "";
    const own = alarms.filter((alarm) => !alarm.steered).map(({ trait }) => `Alarm: ${trait}.`);
    return [`${who} ${end}.`, error?.message ?? text.slice(0, SPOKEN) + rest, ...new Set(own)].join(" ");
  }).join(" ");
}
