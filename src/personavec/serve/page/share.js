// A conversation as one HTML file that needs no script and fetches nothing.
//
// It is drawn by the same templates into elements that no document holds, and written by the browser:
// a text is a text node, and so is escaped where it could be markup.
import { render } from "./vendor/preact.js";
import { html } from "./html.js";
import { colourScale, models, pieceSigmas, reading, replies, steeredBefore } from "./conversation.js";
import { kind, strength } from "./tokens.js";
import { alarmText, expectedText, footText, guardText, joined, signed, title } from "./words.js";

/** Also if a text were taken for markup, nothing in the file may run or load. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/** The file's text. `css` styles it, `trait` colours its tokens, `names` are those of the sides. */
export function sharedPage({ turns, trait, names, css, day }) {
  const scale = colourScale(turns, trait);
  const heading = `A conversation with ${joined(models(turns))}`;
  const body = document.implementation.createHTMLDocument("").body;
  render(html`
    <main class="shared">
      <h1>${heading}</h1>
      <p class="quiet">Read and steered with persona vectors by personavec, ${day}.</p>
      ${trait && html`
        <p>Each token is coloured by the model's activation along <b>${trait}</b>: orange with a + below
        it toward the trait, blue with a − away from it, strongest at ${signed(scale)} σ. σ is the
        standard deviation of the model's first replies to neutral prompts.</p>`}
      <p class="quiet">Vectors: ${joined(vectors(turns)) || "none"}.</p>
      ${turns.map((turn, i) => html`<${SharedTurn} turn=${turn} i=${i} turns=${turns} trait=${trait} scale=${scale} names=${names} />`)}
    </main>`, body);
  const name = document.createElement("title");
  name.textContent = heading;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
${name.outerHTML}
<style>
${css}</style>
</head>
<body>
${body.innerHTML}
</body>
</html>
`;
}

/** The vectors that replies were read along, with their layers. */
const vectors = (turns) => [...new Set(
  replies(turns).flatMap(({ readings }) => readings.map(({ trait, layer }) => `${trait} (layer ${layer})`)),
)];

function SharedTurn({ turn, i, turns, trait, scale, names }) {
  const apart = turn.a !== turn.b;
  const sides = apart && turn.b ? ["a", "b"] : ["a"];
  return html`
    <article class="turn">
      <h2 class="hidden">Turn ${i + 1}</h2>
      <p class="question">${turn.question}</p>
      <p class="settings-line quiet">${settingsText(turn.settings)}</p>
      <div class=${`replies ${sides.length > 1 ? "two" : ""}`}>
        ${sides.map((side) => html`
          <${SharedReply} reply=${turn[side]} steer=${turn.steer[side]} trait=${trait} scale=${scale} side=${side}
            title=${(apart && names[side].length === 1 ? `${names[side]} · ` : "") + title(turn.steer[side], steeredBefore(turns, side, i))} />`)}
      </div>
    </article>`;
}

const settingsText = ({ system, temperature, seed, maxTokens }) =>
  `Temperature ${temperature}, seed ${seed}, at most ${maxTokens} tokens` +
  (system.trim() ? `, system prompt: ${JSON.stringify(system)}` : ", no system prompt");

function SharedReply({ reply, steer, trait, scale, side, title }) {
  const sigmas = trait && pieceSigmas(reply, trait);
  const expected = expectedText(steer, reply);
  const others = (records) => records.filter((one) => !one.steered);
  return html`
    <div role="group" class=${`reply ${side}`} aria-label=${title}>
      <h3>${title}</h3>
      <div class="reply-text tokens">
        ${!sigmas ? reply.text : reply.pieces.map((piece, i) => html`
          <span class=${kind(sigmas[i], scale, piece.text)} style=${{ "--heat": strength(sigmas[i], scale) }}
            title=${sigmas[i] === null ? undefined : `${signed(sigmas[i])} σ`}>${piece.text}</span>`)}
      </div>
      ${expected && html`<p class="expected">${expected}</p>`}
      ${others(reply.guards).map((one) => html`<p class="alert"><b>Guard:</b> ${guardText(one)}</p>`)}
      ${others(reply.alarms).map((one) => html`<p class="alert"><b>Alarm: ${one.trait}.</b> ${alarmText(one)}</p>`)}
      ${reply.error && html`<p class="alert">${reply.error.message}</p>`}
      <p class="foot quiet">${footText(reply, trait && reading(reply, trait))}</p>
      ${reply.readings.length > 0 && html`<${Readings} readings=${reply.readings} />`}
    </div>`;
}

function Readings({ readings }) {
  return html`
    <details class="readings">
      <summary>Readings in σ</summary>
      <table>
        <thead><tr><th scope="col">trait</th><th scope="col">forecast</th><th scope="col">reply</th></tr></thead>
        <tbody>
          ${readings.map((one) => html`
            <tr>
              <th scope="row">${one.trait}</th>
              <td>${signed(one.prompt_last_sigma)}</td>
              <td>${one.response_mean_sigma === null ? "empty" : signed(one.response_mean_sigma)}</td>
            </tr>`)}
        </tbody>
      </table>
    </details>`;
}
