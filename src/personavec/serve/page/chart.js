// A chart of one trait along the conversation: two lines over turns, in standard deviations. One tab
// stop; the pointer and the arrow keys select turns.
import { useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { signed } from "./words.js";

const WIDTH = 300, HEIGHT = 84, LEFT = 34, RIGHT = 8, TOP = 8, BOTTOM = 8;

/** `lines` is {a, b}, with a value or null per turn; `alarms` are turns, from 0. */
export function Trajectory({ trait, lines, alarms, both, names, label }) {
  const [at, setAt] = useState(null);
  const turns = lines.a.length;
  const values = [...lines.a, ...lines.b].filter((value) => value !== null);
  if (!values.length) return html`<p class="quiet small">No reading yet.</p>`;

  const low = Math.min(-2, ...values), high = Math.max(2, ...values);
  const x = (turn) => LEFT + (turn + 0.5) * ((WIDTH - LEFT - RIGHT) / Math.max(turns, 4));
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const points = (line) => line.flatMap((value, turn) => (value === null ? [] : [[turn, value]]));
  const path = (line) => points(line).map(([turn, value]) => `${x(turn)},${y(value)}`).join(" ");
  const sides = both ? ["b", "a"] : ["a"];

  const move = (event) => {
    const from = at ?? (event.key === "ArrowRight" ? -1 : turns);
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: turns - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    setAt(Math.min(Math.max(to, 0), turns - 1));
  };
  const point = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const along = ((event.clientX - box.left) / box.width) * WIDTH;
    const turn = Math.round(((along - LEFT) * Math.max(turns, 4)) / (WIDTH - LEFT - RIGHT) - 0.5);
    setAt(Math.min(Math.max(turn, 0), turns - 1));
  };

  const turn = at === null ? turns - 1 : Math.min(at, turns - 1);
  const said = sides.map((side) => [side, lines[side][turn]]).filter(([, value]) => value !== null);
  const words = said.map(([side, value]) => `${both ? names[side] : "reply"} ${signed(value)} σ`).join(", ");

  return html`
    <figure class="trajectory" tabindex="0" role="group" onKeyDown=${move}
            onBlur=${() => setAt(null)} aria-label=${`${trait}: ${label} along the conversation`}>
      <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true" onPointerMove=${point}
           onPointerLeave=${() => setAt(null)}>
        <text class="tick" x=${LEFT - 6} y=${y(high) + 4}>${signed(high, 0)}</text>
        <text class="tick" x=${LEFT - 6} y=${y(0) + 4}>0 σ</text>
        <text class="tick" x=${LEFT - 6} y=${y(low) + 4}>${signed(low, 0)}</text>
        <line class="zero" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(0)} y2=${y(0)} />
        ${at !== null && html`
          <line class="cursor" x1=${x(turn)} x2=${x(turn)} y1=${TOP - 4} y2=${HEIGHT - BOTTOM + 4} />`}
        ${sides.map((side) => html`<polyline class=${side} points=${path(lines[side])} />`)}
        ${sides.map((side) => points(lines[side]).map(([turn, value]) => side === "a"
          ? html`<circle class=${side} cx=${x(turn)} cy=${y(value)} r="4" />`
          : html`<rect class=${side} x=${x(turn) - 3.5} y=${y(value) - 3.5} width="7" height="7" />`))}
        ${alarms.map((turn) => html`
          <path class="alarm" d=${`M${x(turn) - 6},${TOP - 7} h12 l-6,9 z`} />`)}
      </svg>
      <figcaption aria-live=${at === null ? "off" : "polite"}>
        turn ${turn + 1}: ${words || "no reading"}${alarms.includes(turn) ? ", alarm" : ""}
      </figcaption>
    </figure>`;
}
