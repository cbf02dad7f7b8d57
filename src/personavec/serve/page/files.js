// The buttons that begin, save, load and share a conversation.
import { useRef } from "./vendor/hooks.js";
import { html } from "./html.js";
import { dump, load } from "./saved.js";
import { sharedPage } from "./share.js";

/**
 * `held` is the conversation: {model, compare, turns, trait, names}. `onLoaded` gets the
 * one in a file, `onProblem` an Error whose message says why there is none.
 */
export function Files({ held, running, onNew, onLoaded, onProblem, onSaid }) {
  const picker = useRef(null);
  const none = !held.turns.length || running;
  const save = () => {
    download(dump(held), "application/json", `${fileName(held.model)}.json`);
    onSaid("Conversation saved.");
  };
  const share = async () => {
    try {
      const css = await (await fetch("reading.css")).text();
      const shared = sharedPage({ ...held, css, day: today() });
      download(shared, "text/html", `${fileName(held.model)}.html`);
      onSaid("Conversation written as an HTML file.");
    } catch (error) {
      onProblem(new Error(`The file could not be written: ${error.message}.`));
    }
  };
  const picked = async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      onLoaded(await load(file));
    } catch (error) {
      onProblem(new Error(`${file.name} cannot be loaded: ${error.message}.`));
    }
    // So that the same file can be picked again.
    picker.current.value = "";
  };
  return html`
    <div class="files" role="group" aria-label="File">
      <button type="button" class="plain" onClick=${onNew} disabled=${!held.turns.length}>New</button>
      <button type="button" class="plain" onClick=${save} disabled=${none}>Save</button>
      <button type="button" class="plain" onClick=${() => picker.current.click()} disabled=${running}>Load</button>
      <button type="button" class="plain" onClick=${share} disabled=${none}
        title="Write the conversation as one HTML file that anyone can read">Share</button>
      <input ref=${picker} type="file" accept=".json,application/json" hidden aria-label="File of a conversation"
        onChange=${picked} />
    </div>`;
}

const today = () => new Date().toISOString().slice(0, 10);

/** Such as personavec-smollm2-2026-01-31. */
const fileName = (model) => `personavec-${model.replace(/[^\w.-]+/g, "-").slice(-60)}-${today()}`;

function download(text, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
