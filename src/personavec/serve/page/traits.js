// One trait: its slider, its chart, its report, and whether it colours the tokens.
import { html } from "./html.js";
import { signed } from "./conversation.js";
import { Trajectory } from "./chart.js";

export function Trait({ vector, coefficient, onCoefficient, shown, onShow, lines, alarms, both, label }) {
  const { trait, description, coherent_range: range, verdict, report } = vector;
  const id = `slider-${trait}`;
  return html`
    <section class=${`trait ${shown ? "shown" : ""}`} aria-label=${trait}>
      <div class="trait-head">
        <label title=${description}>
          <input type="radio" name="shown" checked=${shown} onChange=${() => onShow(trait)}
                 aria-label=${`colour tokens by ${trait}`} />
          ${trait}
        </label>
        ${verdict && html`<span class="quiet" title="the verdict of its extraction">${verdict}</span>`}
        ${alarms.length > 0 && html`<span class="alarm-mark">alarm</span>`}
        <a href=${report} target="_blank" rel="noopener">report<span class="hidden"> of ${trait}, in a new tab</span></a>
      </div>
      ${range ? html`
        <div class="slider">
          <span class="quiet" aria-hidden="true">${signed(range[0], 0)}</span>
          <input id=${id} type="range" min=${range[0]} max=${range[1]} step="0.25" value=${coefficient}
                 class=${coefficient ? "set" : ""} style=${fill(coefficient, range)}
                 aria-label=${`${trait}: coefficient`}
                 aria-valuetext=${coefficient ? `${signed(coefficient, 2)} times the vector` : "not steered"}
                 onInput=${(event) => onCoefficient(trait, Number(event.target.value))} />
          <span class="quiet" aria-hidden="true">${signed(range[1], 0)}</span>
          <output for=${id} class=${coefficient ? "set" : ""}>${signed(coefficient, 2)}</output>
        </div>`
        : html`<p class="quiet none">No coherent range was measured, so there is nothing to slide in.</p>`}
      <${Trajectory} trait=${trait} lines=${lines} alarms=${alarms} both=${both} label=${label} />
    </section>`;
}

/** The filled part of the slider, as shares of its length. */
function fill(coefficient, [low, high]) {
  const share = (value) => (value - low) / (high - low);
  return {
    "--zero": share(0),
    "--from": share(Math.min(0, coefficient)),
    "--to": share(Math.max(0, coefficient)),
  };
}
