// The page: its state and its layout.
import { render } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { vectors } from "./api.js";
import { announcement, ask } from "./ask.js";
import { colourScale, isRunning, models, plan, replies, sideNames, steering } from "./conversation.js";
import { Composer } from "./composer.js";
import { Files } from "./files.js";
import { Problem } from "./problem.js";
import { reach, within } from "./slider.js";
import { Traits } from "./traits.js";
import { Turns } from "./turns.js";
import { joined, spelled } from "./words.js";

const SETTINGS = { system: "", maxTokens: 200, temperature: 0.7, seed: 0 };
const ZERO = { a: {}, b: {} };

function App() {
  const [server, setServer] = useState(null);
  const [problem, setProblem] = useState(null);
  const [wrong, setWrong] = useState(null);
  const [coefficients, setCoefficients] = useState(ZERO);
  const [beyond, setBeyond] = useState(false);
  const [compare, setCompare] = useState("unsteered");
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
  const slide = (side, trait, value) => {
    setCoefficients((before) => ({ ...before, [side]: { ...before[side], [trait]: value } }));
    setShown(trait);
  };
  const allow = (more) => {
    setBeyond(more);
    if (!more) setCoefficients((before) => held(before, server.vectors));
  };

  const traits = server?.vectors.map((vector) => vector.trait) ?? [];
  const two = compare === "setting";
  const steer = { a: steering(coefficients.a), b: two ? steering(coefficients.b) : [] };
  const names = sideNames(turns, compare);
  const running = replies(turns).some(isRunning);

  const send = async (question) => {
    const turn = { id: turns.length, model: server.model, question, settings, steer };
    const sides = plan(turns, steer, compare);
    const put = (changed) => setTurns((before) => [...before.slice(0, turn.id), changed]);
    stopper.current = new AbortController();
    setProblem(null);
    setWrong(null);
    setSaid(sides.length > 1 ? "Writing two replies." : "Writing.");
    const found = await ask(server, turns, turn, sides, put, stopper.current.signal);
    setSaid(announcement(found, names));
    const refused = Object.values(found).find(({ error }) => error?.status === 401);
    if (refused) setProblem(refused.error);
  };

  const restart = () => {
    stopper.current?.abort();
    setTurns([]);
    setWrong(null);
    setSaid("New conversation.");
  };
  const loaded = (file) => {
    setTurns(file.turns);
    setCompare(file.compare);
    if (file.trait) setShown(file.trait);
    // It goes on as it was left.
    const last = file.turns.at(-1);
    if (last) setSettings(last.settings);
    const known = (own) =>
      Object.fromEntries(own.filter(({ vector }) => traits.includes(vector)).map((one) => [one.vector, one.coefficient]));
    setBeyond(false);
    setCoefficients(last ? held({ a: known(last.steer.a), b: known(last.steer.b) }, server.vectors) : ZERO);
    const others = models(file.turns).filter((model) => model !== server.model);
    setWrong(others.length
      ? new Error(`This conversation was held with ${joined(others)}; ${server.model} goes on with it.`) : null);
    setSaid(`Conversation loaded. Number of turns: ${file.turns.length}.`);
  };

  const stop = () => stopper.current?.abort();
  useEffect(() => {
    const pressed = (event) => event.key === "Escape" && stop();
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, []);

  const trait = traits.includes(shown) ? shown : null;
  const conversation = server && { model: server.model, compare, turns, trait, names };
  return html`
    ${server && html`<a class="skip" href="#question">To the message</a>`}
    <header>
      <h1>personavec</h1>
      ${server && html`<p class="model quiet">${server.model}</p>
        <${Files} held=${conversation} running=${running} onNew=${restart} onLoaded=${loaded}
          onProblem=${setWrong} onSaid=${setSaid} />`}
    </header>
    ${problem && html`<${Problem} problem=${problem} onRetry=${connect} />`}
    ${wrong && html`<${Problem} problem=${wrong} onDismiss=${() => setWrong(null)} />`}
    ${server && html`
      <div class="columns">
        <${Fold} fold=${narrow} class="panel" summary=${summary(steer, two)}>
          <${Traits} server=${server} turns=${turns} coefficients=${coefficients} onCoefficient=${slide}
            onReset=${() => setCoefficients(ZERO)} two=${two} beyond=${beyond} onBeyond=${allow} shown=${shown}
            onShow=${setShown} position=${position} onPosition=${setPosition} names=${names} />
        <//>
        <main>
          <${Turns} turns=${turns} trait=${trait} scale=${trait ? colourScale(turns, trait) : 1} names=${names} />
          <${Composer} running=${running} onSend=${send} onStop=${stop} longest=${server.max_tokens}
            settings=${settings} onSettings=${setSettings} compare=${compare} onCompare=${setCompare} />
        </main>
      </div>`}
    <p class="hidden" role="status">${said}</p>`;
}

/** Coefficients back within the coherent ranges. */
function held(coefficients, vectors) {
  const range = Object.fromEntries(vectors.map((vector) => [vector.trait, reach(vector, false)]));
  const side = (own) =>
    Object.fromEntries(Object.entries(own).map(([trait, value]) => [trait, within(value, range[trait])]));
  return { a: side(coefficients.a), b: side(coefficients.b) };
}

/** What the folded panel tells of its sliders. */
function summary(steer, two) {
  if (!steer.a.length && !steer.b.length) return "Traits and steering";
  const words = (own) => spelled(own) || "none";
  return two ? `Steering: A ${words(steer.a)}; B ${words(steer.b)}` : `Steering: ${words(steer.a)}`;
}

/** Content that folds away behind its summary, on narrow screens only. */
function Fold({ fold, summary, class: name, children }) {
  return fold
    ? html`<aside aria-label="Traits">
        <details class=${name} name="fold"><summary>${summary}</summary>${children}</details>
      </aside>`
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
