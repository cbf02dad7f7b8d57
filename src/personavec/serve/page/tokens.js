// A reply's text, with each token coloured by its projection on one trait. One tab stop: arrow keys,
// Home and End go from token to token. Hover and focus show the value.
import { useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { signed } from "./words.js";

/** So far; each value shown has an id of its own. */
let boxes = 0;

/** `sigmas` is null while there are none; `scale` is the value with the strongest colour. */
export function Tokens({ text, pieces, sigmas, scale, trait }) {
  const [at, setAt] = useState(0);
  const [shown, setShown] = useState(null);
  const box = useRef(null), id = useRef(null);
  id.current ??= `value-${boxes++}`;
  if (!sigmas) return html`<div class="reply-text">${text}</div>`;

  const tokenOf = (event) => event.target.closest("[data-i]");
  const show = (event) => {
    const token = tokenOf(event);
    if (!token) return;
    const i = Number(token.dataset.i);
    setShown({ i, left: token.offsetLeft, top: token.offsetTop, width: box.current.clientWidth });
    if (event.type === "focusin") setAt(i);
  };
  const move = (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: pieces.length - 1 }[event.key];
    if (event.key === "Escape") setShown(null);
    if (to === undefined) return;
    event.preventDefault();
    box.current.querySelector(`[data-i="${Math.min(Math.max(to, 0), pieces.length - 1)}"]`)?.focus();
  };

  return html`
    <div class="reply-text tokens" ref=${box} onMouseOver=${show} onMouseLeave=${() => setShown(null)}
         onFocusIn=${show} onFocusOut=${() => setShown(null)} onKeyDown=${move}>
      ${pieces.map((piece, i) => html`
        <span key=${i} data-i=${i} tabindex=${i === at ? 0 : -1} class=${kind(sigmas[i], scale, piece.text)}
              aria-describedby=${shown?.i === i ? id.current : undefined}
              style=${{ "--heat": strength(sigmas[i], scale) }}>${piece.text}</span>`)}
      ${shown && html`
        <div id=${id.current} role="tooltip" class="value" style=${place(shown)}>
          ${JSON.stringify(pieces[shown.i].text)}${" "}
          <b>${sigmas[shown.i] === null ? "not read" : `${trait} ${signed(sigmas[shown.i])} σ`}</b>
        </div>`}
    </div>`;
}

/** A token's classes. From a third of the scale on it is `strong`: a sign below it tells the side. */
export function kind(sigma, scale, text) {
  if (sigma === null) return "unread";
  const strong = Math.abs(sigma) >= scale / 3 && text.trim();
  return (sigma > 0 ? "toward" : "away") + (strong ? " strong" : "");
}

/** 0% to 100% of the trait's colour. */
export const strength = (sigma, scale) =>
  sigma === null ? "0%" : `${Math.round(100 * Math.min(1, Math.abs(sigma) / scale))}%`;

/** Above the token, and within the text's box. */
const place = ({ left, top, width }) => ({
  left: `${Math.max(0, Math.min(left, width - 190))}px`,
  top: `${top}px`,
});
