// The panel of traits. Each has its sliders, its chart, its report, and may colour the tokens.
import { html } from "./html.js";
import { SIDES, alarmed, parted, trajectory } from "./conversation.js";
import { Slider } from "./slider.js";
import { Trajectory } from "./chart.js";

const POSITIONS = { response_mean: "mean of the reply", prompt_last: "forecast before it" };

/** `two` says that B has sliders of its own. */
export function Traits({ server, turns, coefficients, onCoefficient, onReset, two, beyond, onBeyond, shown, onShow, position, onPosition, names }) {
  const both = parted(turns);
  const steered = SIDES.some((side) => Object.values(coefficients[side]).some((value) => value));
  return html`
    <div class="panel-head">
      <h2>Traits</h2>
      <button type="button" class="plain" disabled=${!steered} onClick=${onReset}>Reset sliders</button>
    </div>
    <${Beyond} allowed=${server.any_coefficient} beyond=${beyond} onBeyond=${onBeyond} />
    <label class="line">Charts show the
      <select value=${position} onChange=${(event) => onPosition(event.target.value)}>
        ${Object.entries(POSITIONS).map(([value, name]) => html`<option value=${value}>${name}</option>`)}
      </select>
    </label>
    ${both && html`
      <p class="key quiet"><span class="mark a"></span> ${names.a} <span class="mark b"></span> ${names.b}</p>`}
    ${server.vectors.map((vector) => html`
      <${Trait} key=${vector.trait} vector=${vector} two=${two} coefficients=${coefficients} beyond=${beyond}
        allowed=${server.any_coefficient} onCoefficient=${onCoefficient} shown=${vector.trait === shown}
        onShow=${onShow} both=${both} names=${names} label=${POSITIONS[position]}
        lines=${trajectory(turns, vector.trait, position)} alarms=${alarmed(turns, vector.trait)} />`)}`;
}

/** Sliders end where replies stop being coherent; a server may let them go on, on demand. */
function Beyond({ allowed, beyond, onBeyond }) {
  if (!allowed) {
    return html`
      <p class="quiet small">A slider ends where its vector's replies stopped being coherent. This server
      goes no further, unless it is started with <code>--allow-any-coefficient</code>.</p>`;
  }
  return html`
    <label class="check small">
      <input type="checkbox" checked=${beyond} onChange=${(event) => onBeyond(event.target.checked)} />
      Let sliders leave the coherent ranges
    </label>
    ${beyond && html`
      <p class="warning">There, replies repeat themselves or fall apart, and their readings say little
      about the trait.</p>`}`;
}

function Trait({ vector, two, coefficients, beyond, allowed, onCoefficient, shown, onShow, lines, alarms, both, names, label }) {
  const { trait, description, coherent_range: range, verdict, report } = vector;
  return html`
    <section class=${`trait ${shown ? "shown" : ""}`} aria-label=${trait}>
      <div class="trait-head">
        <label title=${description}>
          <input type="radio" name="shown" checked=${shown} onChange=${() => onShow(trait)}
                 aria-label=${`colour tokens by ${trait}`} />
          ${trait}
        </label>
        ${alarms.length > 0 && html`<span class="alarm-mark">alarm</span>`}
        <a href=${report} target="_blank" rel="noopener" title=${verdict && `The verdict on the vector: ${verdict}`}>
          report<span class="hidden"> of ${trait}</span>${verdict && `: ${verdict.split(":")[0]}`}<span class="hidden">, in a new tab</span></a>
      </div>
      ${(two ? SIDES : ["a"]).map((side) => html`
        <${Slider} key=${side} vector=${vector} name=${two ? names[side] : ""} beyond=${beyond}
          disabled=${range === null && !allowed} coefficient=${coefficients[side][trait] ?? 0}
          onCoefficient=${(value) => onCoefficient(side, trait, value)} />`)}
      ${range === null && html`
        <p class="quiet small">Where its replies are coherent was never measured${allowed
          ? ", so that this is a plain range."
          : html`, so this server does not steer with it, unless it is started with
              <code>--allow-any-coefficient</code>.`}</p>`}
      <${Trajectory} trait=${trait} lines=${lines} alarms=${alarms} both=${both} names=${names} label=${label} />
    </section>`;
}
