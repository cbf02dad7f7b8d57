// Where a question is written, with what it is compared with and how the model samples.
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { html } from "./html.js";

export const COMPARE = { unsteered: "unsteered", setting: "second setting", nothing: "nothing" };

export function Composer({ running, onSend, onStop, longest, settings, onSettings, compare, onCompare }) {
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
  return html`
    <form class="composer" onSubmit=${submit} aria-label="Ask">
      <label class="hidden" for="question">Message</label>
      <textarea id="question" ref=${box} rows="2" placeholder="Message" value=${draft}
        onInput=${(event) => setDraft(event.target.value)} onKeyDown=${typed}></textarea>
      <div class="actions">
        <label class="check">Compare with
          <select value=${compare} onChange=${(event) => onCompare(event.target.value)}>
            ${Object.entries(COMPARE).map(([value, name]) => html`<option value=${value}>${name}</option>`)}
          </select>
        </label>
        ${running
          ? html`<button type="button" class="stop" onClick=${onStop}>Stop</button>`
          : html`<button type="submit" disabled=${!draft.trim()}>Send</button>`}
      </div>
      <${Settings} settings=${settings} onSettings=${onSettings} longest=${longest} />
    </form>`;
}

function Settings({ settings, onSettings, longest }) {
  const number = (name, label, attributes) => html`
    <label>${label}
      <input type="number" value=${settings[name]} ...${attributes} onChange=${(event) =>
        event.target.checkValidity() && event.target.value !== "" &&
        onSettings({ ...settings, [name]: Number(event.target.value) })} />
    </label>`;
  // Of the details of one name, a browser keeps one open: there is little room on a phone.
  return html`
    <details class="settings" name="fold">
      <summary>Settings</summary>
      <label class="wide">System prompt
        <textarea rows="2" value=${settings.system}
          onInput=${(event) => onSettings({ ...settings, system: event.target.value })}></textarea>
      </label>
      ${number("maxTokens", "Longest reply, tokens", { min: 1, max: longest })}
      ${number("temperature", "Temperature", { min: 0, max: 2, step: 0.1 })}
      ${number("seed", "Seed", { min: 0 })}
    </details>`;
}
