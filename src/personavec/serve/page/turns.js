// The conversation: its turns, each with one reply or two.
import { useEffect, useLayoutEffect, useRef } from "./vendor/hooks.js";
import { html } from "./html.js";
import { isRunning, pieceSigmas, reading, replies, steeredBefore } from "./conversation.js";
import { footText, signed, title } from "./words.js";
import { Notices } from "./notices.js";
import { Tokens } from "./tokens.js";

/** `names` are those of the sides; letters are put before the replies' titles. */
export function Turns({ turns, trait, scale, names }) {
  const box = useFollowed(turns);
  return html`
    <div class="turns" ref=${box} tabindex="0" role="region" aria-label="Conversation">
      ${!turns.length && html`<${Welcome} />`}
      ${turns.length > 0 && trait && html`<${Legend} trait=${trait} scale=${scale} />`}
      ${turns.map((turn, i) => html`
        <${Turn} key=${turn.id} turn=${turn} trait=${trait} scale=${scale} names=${names}
          before=${{ a: steeredBefore(turns, "a", i), b: steeredBefore(turns, "b", i) }} />`)}
    </div>`;
}

/**
 * The box of the turns. It stays at its end while replies grow, unless the reader has scrolled up; a
 * new turn brings it there again. A conversation that was loaded is shown from its beginning.
 */
function useFollowed(turns) {
  const box = useRef(null), atEnd = useRef(true), writing = useRef(false), last = useRef(0);
  const isAtEnd = ({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 48;
  const follow = () => {
    const { current } = box;
    // A reader's scrolling is told in the next frame only; the next token may come before.
    if (current.scrollTop < last.current - 1 && !isAtEnd(current)) atEnd.current = false;
    if (atEnd.current) current.scrollTop = current.scrollHeight;
    last.current = current.scrollTop;
  };
  useLayoutEffect(() => {
    const now = replies(turns).some(isRunning);
    if (now && !writing.current) {
      atEnd.current = true;
      last.current = 0;
      // Where the document scrolls as a whole, in low windows.
      box.current.lastElementChild.scrollIntoView({ block: "start" });
    }
    if (!now && !writing.current) {
      atEnd.current = false;
      box.current.scrollTop = 0;
    }
    writing.current = now;
    follow();
  }, [turns]);
  useEffect(() => {
    const { current } = box;
    const scrolled = () => {
      atEnd.current = isAtEnd(current);
      last.current = current.scrollTop;
    };
    // Opening a panel leaves less height; the end stays in sight.
    const resized = new ResizeObserver(follow);
    current.addEventListener("scroll", scrolled, { passive: true });
    resized.observe(current);
    return () => {
      current.removeEventListener("scroll", scrolled);
      resized.disconnect();
    };
  }, []);
  return box;
}

function Turn({ turn, trait, scale, names, before }) {
  const apart = turn.a !== turn.b;
  const sides = apart && turn.b ? ["a", "b"] : ["a"];
  return html`
    <article class="turn" aria-labelledby=${`turn-${turn.id}`}>
      <h2 class="hidden" id=${`turn-${turn.id}`}>Turn ${turn.id + 1}</h2>
      <p class="question">${turn.question}</p>
      <div class=${`replies ${sides.length > 1 ? "two" : ""}`}>
        ${sides.map((side) => html`
          <${Reply} key=${side} reply=${turn[side]} steer=${turn.steer[side]} trait=${trait} scale=${scale}
            title=${(apart && names[side].length === 1 ? `${names[side]} · ` : "") + title(turn.steer[side], before[side])}
            side=${side} />`)}
      </div>
    </article>`;
}

function Reply({ reply, steer, trait, scale, title, side }) {
  return html`
    <div role="group" class=${`reply ${side}`} aria-label=${title} aria-busy=${isRunning(reply)}>
      <h3>${title}</h3>
      <${Tokens} text=${reply.text} pieces=${reply.pieces} sigmas=${trait && pieceSigmas(reply, trait)}
        scale=${scale} trait=${trait} />
      ${isRunning(reply) && html`<span class="writing" role="img" aria-label="writing"></span>`}
      <${Notices} reply=${reply} steer=${steer} />
      <p class="foot quiet">${footText(reply, trait && reading(reply, trait))}</p>
    </div>`;
}

function Legend({ trait, scale }) {
  return html`
    <p class="legend quiet">
      <span>Tokens by <b>${trait}</b></span>
      <span class="ramp-end">${signed(-scale, 0)} σ away</span><span class="ramp" aria-hidden="true"></span>
      <span class="ramp-end">toward ${signed(scale, 0)} σ</span>
    </p>`;
}

function Welcome() {
  return html`
    <div class="welcome">
      <h2>Ask something, then push a trait</h2>
      <p>Slide a trait to the right to steer the model toward it, to the left to steer away. With a
      slider off zero, every question is answered twice, side by side: steered and unsteered, or by
      two settings of your own.</p>
      <p>Each token is coloured by how far the model's activations lie along the trait that is chosen
      in the list: orange with a + below it toward the trait, blue with a − away from it. σ is the
      standard deviation of the model's first replies to neutral prompts, so that later turns of
      ordinary talk may stand several σ away.</p>
    </div>`;
}
