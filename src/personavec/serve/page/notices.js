// What guards and alarms reported of a reply: in one line what steering explains, the rest each.
import { html } from "./html.js";
import { unexplained } from "./conversation.js";
import { alarmText, expectedText, guardText } from "./words.js";

export function Notices({ reply, steer }) {
  const expected = expectedText(steer, reply);
  return html`
    ${expected && html`
      <details class="expected">
        <summary>${expected}</summary>
        <ul>
          ${reply.guards.filter((one) => one.steered).map((one) => html`<li>Guard: ${guardText(one)}</li>`)}
          ${reply.alarms.filter((one) => one.steered).map((one) => html`<li>${one.trait}: ${alarmText(one)}</li>`)}
        </ul>
      </details>`}
    ${unexplained(reply.guards).map((guard) => html`<p class="alert"><b>Guard:</b> ${guardText(guard)}</p>`)}
    ${unexplained(reply.alarms).map((alarm) => html`
      <p class="alert"><b>Alarm: ${alarm.trait}.</b> ${alarmText(alarm)}</p>`)}
    ${reply.error && html`<p class="alert">${reply.error.message}</p>`}`;
}
