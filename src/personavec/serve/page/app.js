// The page: its state, its requests and its layout.
import { render } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { ServerError, complete, key, vectors } from "./api.js";
import {
  alarmed, colourScale, cut, emptyReply, messages, parted, pieceSigmas, reading, signed, steering,
  trajectory,
} from "./conversation.js";
import { Tokens } from "./tokens.js";
import { Trait } from "./traits.js";

const SETTINGS = { system: "", maxTokens: 200, temperature: 0.7, seed: 0 };
const POSITIONS = { response_mean: "mean of the reply", prompt_last: "forecast before it" };

function App() {
  const [server, setServer] = useState(null);
  const [problem, setProblem] = useState(null);
  const [coefficients, setCoefficients] = useState({});
  const [compare, setCompare] = useState(true);
  const [shown, setShown] = useState(null);
  const [position, setPosition] = useState("response_mean");
  const [settings, setSettings] = useState(SETTINGS);
  const [turns, setTurns] = useState([]);
  const [said, setSaid] = useState("");
  const stopper = useRef(null);
  const narrow = useNarrow();

  const connect = async () => {
    try {
      const found = await vectors();
      setServer(found);
      setProblem(null);
      setShown((before) => before ?? found.vectors[0]?.trait ?? null);
    } catch (error) {
      setProblem(error);
    }
  };
  useEffect(() => void connect(), []);

  // Moving a slider also selects its trait.
  const slide = (trait, value) => {
    setCoefficients((before) => ({ ...before, [trait]: value }));
    setShown(trait);
  };

  const running = turns.some((turn) => isRunning(turn.steered) || isRunning(turn.plain));

  const send = async (question) => {
    const steer = steering(coefficients);
    const apart = steer.length > 0 || parted(turns);
    // If both sides are the same, one request answers both.
    const sides = !apart ? ["both"] : compare ? ["steered", "plain"] : ["steered"];
    const id = turns.length;
    const replies = Object.fromEntries(sides.map((side) => [side, emptyReply()]));
    const put = (side, change) => {
      replies[side] = { ...replies[side], ...change };
      const steered = replies.both ?? replies.steered;
      const plain = replies.both ?? replies.plain ?? null;
      setTurns((before) => [...before.slice(0, id), { id, question, steer, steered, plain }]);
    };
    const stop = (stopper.current = new AbortController());
    setProblem(null);
    setSaid("");
    const ends = sides.map((side) => {
      put(side, {});
      const from = side === "plain" ? "plain" : "steered";
      return answer(
        {
          model: server.model,
          messages: messages(turns, from, question, settings.system),
          max_tokens: Math.min(settings.maxTokens, server.max_tokens),
          temperature: settings.temperature,
          seed: settings.seed,
          personavec: {
            steer: side === "plain" ? [] : steer,
            monitor: server.vectors.map((vector) => vector.trait),
            tokens: true,
          },
        },
        stop.signal,
        (change) => put(side, change),
      );
    });
    const states = await Promise.all(ends);
    const alarms = sides.flatMap((side) => replies[side].alarms);
    setSaid([
      states.includes("failed") ? "The reply failed." : states.includes("stopped") ? "Stopped." : "Reply complete.",
      ...alarms.map((alarm) => `Alarm: ${alarm.trait}.`),
    ].join(" "));
    const refused = sides.map((side) => replies[side].error).find((error) => error?.status === 401);
    if (refused) setProblem(refused);
  };

  const restart = () => {
    stopper.current?.abort();
    setTurns([]);
    setSaid("New conversation.");
  };

  const stop = () => stopper.current?.abort();
  useEffect(() => {
    const pressed = (event) => event.key === "Escape" && stop();
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, []);

  const vector = server?.vectors.find((found) => found.trait === shown) ?? null;
  const scale = vector ? colourScale(turns, vector) : 1;
  const steer = steering(coefficients);
  const both = turns.some((turn) => turn.steered !== turn.plain);

  return html`
    <header>
      <h1>personavec</h1>
      ${server && html`<p class="model quiet">${server.model}</p>`}
      <button type="button" class="plain" onClick=${restart} disabled=${!turns.length}>New conversation</button>
    </header>
    ${problem && html`<${Problem} problem=${problem} onRetry=${connect} />`}
    ${server && html`
      <div class="columns">
        <${Fold} fold=${narrow} class="panel" summary=${steer.length ? `Steering: ${spelled(steer)}` : "Traits and steering"}>
          <div class="panel-head">
            <h2>Traits</h2>
            <button type="button" class="plain" disabled=${!steer.length} onClick=${() => setCoefficients({})}>Reset sliders</button>
          </div>
          <label class="line">Charts show the
            <select value=${position} onChange=${(event) => setPosition(event.target.value)}>
              ${Object.entries(POSITIONS).map(([value, name]) => html`<option value=${value}>${name}</option>`)}
            </select>
          </label>
          ${both && html`<p class="key quiet"><span class="mark steered"></span> steered <span class="mark plain"></span> unsteered</p>`}
          ${server.vectors.map((found) => html`
            <${Trait} key=${found.trait} vector=${found} coefficient=${coefficients[found.trait] ?? 0}
              onCoefficient=${slide}
              shown=${found.trait === shown} onShow=${setShown} both=${both} label=${POSITIONS[position]}
              lines=${trajectory(turns, found.trait, position)} alarms=${alarmed(turns, found.trait)} />`)}
        <//>
        <main>
          <div class="turns">
            ${!turns.length && html`<${Welcome} />`}
            ${turns.length > 0 && vector && html`<${Legend} trait=${shown} scale=${scale} />`}
            ${turns.map((turn) => html`<${Turn} key=${turn.id} turn=${turn} vector=${vector} scale=${scale} />`)}
          </div>
          <${Composer} running=${running} onSend=${send} onStop=${stop} longest=${server.max_tokens} settings=${settings}
            onSettings=${setSettings} compare=${compare} onCompare=${setCompare} />
        </main>
      </div>`}
    <p class="hidden" role="status">${said}</p>`;
}

/** Fill a reply from the server's stream; returns its final state. */
async function answer(request, signal, put) {
  let text = "";
  try {
    for await (const part of complete(request, signal)) {
      if (part.text) {
        text += part.text;
        put({ text });
        continue;
      }
      const { readings = [], alarms = [], guards = [], actions = [], tokens = [] } = part.said;
      const pieces = cut(text, tokens);
      put({ state: "done", finish: part.finish, pieces, readings, alarms, guards, actions });
    }
    return "done";
  } catch (error) {
    if (error.name === "AbortError") {
      put({ state: "stopped" });
      return "stopped";
    }
    if (!(error instanceof ServerError)) console.error(error);
    put({ state: "failed", error });
    return "failed";
  }
}

const isRunning = (reply) => reply?.state === "running";
const spelled = (steer) => steer.map(({ vector, coefficient }) => `${vector} ${signed(coefficient, 2)}`).join(", ");

function Turn({ turn, vector, scale }) {
  const apart = turn.steered !== turn.plain;
  const article = useRef(null);
  useEffect(() => article.current.scrollIntoView({ block: "start" }), []);
  return html`
    <article class="turn" ref=${article}>
      <h3 class="hidden">Turn ${turn.id + 1}</h3>
      <p class="question">${turn.question}</p>
      <div class=${`replies ${apart && turn.plain ? "two" : ""}`}>
        <${Reply} reply=${turn.steered} vector=${vector} scale=${scale}
          title=${apart ? (turn.steer.length ? `Steered: ${spelled(turn.steer)}` : "Steered before, now not") : "Unsteered"}
          side=${apart ? "steered" : "plain"} />
        ${apart && turn.plain && html`
          <${Reply} reply=${turn.plain} vector=${vector} scale=${scale} title="Unsteered" side="plain" />`}
      </div>
    </article>`;
}

function Reply({ reply, vector, scale, title, side }) {
  const found = vector && reading(reply, vector.trait);
  return html`
    <section class=${`reply ${side}`} aria-label=${title} aria-busy=${isRunning(reply)}>
      <h4>${title}</h4>
      <${Tokens} text=${reply.text} pieces=${reply.pieces} sigmas=${vector && pieceSigmas(reply, vector)}
        scale=${scale} trait=${vector?.trait} />
      ${isRunning(reply) && html`<span class="writing" role="img" aria-label="writing"></span>`}
      ${reply.guards.map((guard) => html`<p class="alert"><b>Guard:</b> ${guardText(guard)}</p>`)}
      ${reply.alarms.map((alarm) => html`<p class="alert"><b>Alarm: ${alarm.trait}.</b> ${alarmText(alarm)}</p>`)}
      ${reply.error && html`<p class="alert">${reply.error.message}</p>`}
      <p class="foot quiet">${footText(reply, found)}</p>
    </section>`;
}

const alarmText = ({ scope, level, limit }) =>
  `Drift over ${scope === "server" ? "all conversations" : "this conversation"}: ` +
  `the level is ${signed(level)}, the limit ${signed(limit)}.`;

const guardText = ({ condition, forecast, did, amount }) => {
  const action = {
    steer: `the reply was steered by ${signed(amount ?? 0, 2)}`,
    cap: `the reply was capped at percentile ${amount}`,
    refuse: "the request was refused",
  }[did];
  return `the forecast was ${signed(forecast)} (${condition}), so ${action}.`;
};

function footText(reply, found) {
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

function Legend({ trait, scale }) {
  return html`
    <p class="legend quiet">
      <span>Tokens by <b>${trait}</b></span>
      <span class="ramp-end">${signed(-scale, 0)} σ</span><span class="ramp" aria-hidden="true"></span>
      <span class="ramp-end">${signed(scale, 0)} σ</span>
    </p>`;
}

function Welcome() {
  return html`
    <div class="welcome">
      <h2>Ask something, then push a trait</h2>
      <p>Slide a trait to the right to steer the model toward it, to the left to steer away. With a
      slider off zero, every question is answered twice: steered and unsteered, side by side.</p>
      <p>Each token is coloured by how far the model's activations lie along the trait that is
      chosen in the list. σ is the standard deviation of the model's first replies to neutral prompts, so
      that later turns of ordinary talk may stand several σ away.</p>
    </div>`;
}

function Composer({ running, onSend, onStop, longest, settings, onSettings, compare, onCompare }) {
  const [draft, setDraft] = useState("");
  const box = useRef(null);
  useEffect(() => box.current.focus({ preventScroll: true }), []);
  const submit = (event) => {
    event.preventDefault();
    if (running || !draft.trim()) return;
    onSend(draft.trim());
    setDraft("");
    box.current.focus();
  };
  const typed = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  const number = (name, label, attributes) => html`
    <label>${label}
      <input type="number" value=${settings[name]} ...${attributes} onChange=${(event) =>
        event.target.checkValidity() && event.target.value !== "" &&
        onSettings({ ...settings, [name]: Number(event.target.value) })} />
    </label>`;
  return html`
    <form class="composer" onSubmit=${submit}>
      <label class="hidden" for="question">Message</label>
      <textarea id="question" ref=${box} rows="2" placeholder="Message" value=${draft}
        onInput=${(event) => setDraft(event.target.value)} onKeyDown=${typed}></textarea>
      <div class="actions">
        <label class="check"><input type="checkbox" checked=${compare}
          onChange=${(event) => onCompare(event.target.checked)} /> Compare with unsteered</label>
        ${running
          ? html`<button type="button" class="stop" onClick=${onStop}>Stop</button>`
          : html`<button type="submit" disabled=${!draft.trim()}>Send</button>`}
      </div>
      <details class="settings">
        <summary>Settings</summary>
        <label class="wide">System prompt
          <textarea rows="2" value=${settings.system}
            onInput=${(event) => onSettings({ ...settings, system: event.target.value })}></textarea>
        </label>
        ${number("maxTokens", "Longest reply, tokens", { min: 1, max: longest })}
        ${number("temperature", "Temperature", { min: 0, max: 2, step: 0.1 })}
        ${number("seed", "Seed", { min: 0 })}
      </details>
    </form>`;
}

/** An error of the server, with its remedy: enter the key, or try again. */
function Problem({ problem, onRetry }) {
  const [draft, setDraft] = useState("");
  const enter = (event) => {
    event.preventDefault();
    key.set(draft.trim());
    setDraft("");
    onRetry();
  };
  return html`
    <div class="problem" role="alert">
      <p>${problem.status === 401 ? (key.get() ? "The server does not accept this key." : "The server wants an API key.") : problem.message}</p>
      ${problem.status === 401
        ? html`<form onSubmit=${enter}>
            <label>API key <input type="password" autocomplete="off" value=${draft}
              onInput=${(event) => setDraft(event.target.value)} /></label>
            <button type="submit">Use it</button>
            <span class="quiet">It is kept until this tab is closed.</span>
          </form>`
        : html`<button type="button" onClick=${onRetry}>Try again</button>`}
    </div>`;
}

/** Content that folds away behind its summary, on narrow screens only. */
function Fold({ fold, summary, class: name, children }) {
  return fold
    ? html`<details class=${name}><summary>${summary}</summary>${children}</details>`
    : html`<aside class=${name} aria-label="Traits">${children}</aside>`;
}

function useNarrow() {
  const query = useRef(matchMedia("(max-width: 55rem)"));
  const [narrow, setNarrow] = useState(query.current.matches);
  useEffect(() => {
    const changed = (event) => setNarrow(event.matches);
    query.current.addEventListener("change", changed);
    return () => query.current.removeEventListener("change", changed);
  }, []);
  return narrow;
}

render(html`<${App} />`, document.body);
