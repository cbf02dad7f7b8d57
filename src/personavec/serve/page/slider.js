// A trait's slider. It ends where replies stop being coherent, unless more is asked for.
import { html } from "./html.js";
import { short, signed } from "./words.js";

/** Where nothing was measured. */
const PLAIN = [-1, 1];

/**
 * The coefficients that a vector's slider reaches, in whole steps: its coherent range, or a plain one
 * if it has none; `beyond` doubles it and reaches ±1 at least.
 */
export function reach(vector, beyond) {
  const [low, high] = vector.coherent_range ?? PLAIN;
  const ends = beyond ? [Math.min(2 * low, -1), Math.max(2 * high, 1)] : [low, high];
  return [Math.ceil(4 * ends[0]) / 4, Math.floor(4 * ends[1]) / 4];
}

/** A coefficient within what a slider reaches. */
export const within = (value, [low, high]) => Math.min(Math.max(value, low), high);

/** `name` is the setting's letter, if there are two. */
export function Slider({ vector, name, coefficient, beyond, disabled, onCoefficient }) {
  const { trait, coherent_range: sound } = vector;
  const range = reach(vector, beyond);
  const side = coefficient > 0 ? "toward" : coefficient < 0 ? "away" : "";
  const outside = sound !== null && within(coefficient, sound) !== coefficient;
  const words = coefficient
    ? `${signed(coefficient, 2)} times the vector, ${side === "toward" ? "toward" : "away from"} the trait`
    : "not steered";
  return html`
    <div class="slider">
      ${name && html`<b aria-hidden="true">${name}</b>`}
      <span class="quiet" aria-hidden="true">${short(range[0])}</span>
      <input type="range" min=${range[0]} max=${range[1]} step="0.25" value=${coefficient}
             class=${side + (beyond ? " wide" : "")} style=${fill(coefficient, range, sound ?? range)} disabled=${disabled}
             aria-label=${`${trait}: coefficient${name ? ` of ${name}` : ""}`}
             aria-valuetext=${words + (outside ? ", beyond the coherent range" : "")}
             onInput=${(event) => onCoefficient(Number(event.target.value))} />
      <span class="quiet" aria-hidden="true">${short(range[1])}</span>
      <output class=${side} aria-hidden="true">${signed(coefficient, 2)}</output>
    </div>
    ${outside && html`
      <p class="warning">Replies were coherent from ${short(sound[0])} to ${short(sound[1])} only.</p>`}`;
}

/** The filled part of the slider and its coherent part, as shares of its length. */
function fill(coefficient, [low, high], sound) {
  const share = (value) => (high > low ? (within(value, [low, high]) - low) / (high - low) : 0);
  return {
    "--zero": share(0),
    "--from": share(Math.min(0, coefficient)),
    "--to": share(Math.max(0, coefficient)),
    "--sound-from": share(sound[0]),
    "--sound-to": share(sound[1]),
  };
}
