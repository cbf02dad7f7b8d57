// An error, with its remedy: enter the key, try again, or put it away.
import { useState } from "./vendor/hooks.js";
import { html } from "./html.js";
import { key } from "./api.js";

export function Problem({ problem, onRetry, onDismiss }) {
  const [draft, setDraft] = useState("");
  const enter = (event) => {
    event.preventDefault();
    key.set(draft.trim());
    setDraft("");
    onRetry();
  };
  const asks = key.get() ? "The server does not accept this key." : "The server wants an API key.";
  return html`
    <div class="problem" role="alert">
      <p>${problem.status === 401 ? asks : problem.message}</p>
      ${problem.status === 401 && html`
        <form onSubmit=${enter}>
          <label>API key <input type="password" autocomplete="off" value=${draft}
            onInput=${(event) => setDraft(event.target.value)} /></label>
          <button type="submit">Use it</button>
          <span class="quiet">It is kept until this tab is closed.</span>
        </form>`}
      ${problem.status !== 401 && (onDismiss
        ? html`<button type="button" onClick=${onDismiss}>Close</button>`
        : html`<button type="button" onClick=${onRetry}>Try again</button>`)}
    </div>`;
}
