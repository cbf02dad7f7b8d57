// Used by every part to draw. Strings become text nodes, so nothing a model writes is markup.
import { h } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
