// The server's API, as any OpenAI client uses it. Knows nothing of the page.

const KEY = "personavec.key";

/** The API key lives as long as the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An error of the server, in one line; `status` is 401 if it needs a key. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The model and its vectors: [{trait, coherent_range, neutral, report, …}]. */
export async function vectors() {
  return (await call("v1/personavec/vectors")).json();
}

/**
 * A streamed chat completion: yields {text} as it comes. At the end it yields {finish, said} once: why
 * the reply ended, and its field `personavec`. Throws ServerError, or AbortError if `signal` stopped
 * it.
 */
export async function* complete(request, signal) {
  const response = await call("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true }),
    signal,
  });
  const end = { finish: null, said: {} };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      yield end;
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, response.status);
    if (chunk.personavec) {
      const { choices, ...rest } = chunk.personavec;
      end.said = { ...rest, ...choices[0] };
    }
    const [choice] = chunk.choices ?? [];
    end.finish = choice?.finish_reason ?? end.finish;
    const text = choice?.delta.content ?? choice?.delta.refusal;
    if (text) yield { text };
  }
  throw new ServerError("the server broke off in the middle of its reply", 0);
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server does not answer; is it still running?", 0);
  }
  if (!response.ok) throw new ServerError(await reason(response), response.status);
  return response;
}

/** The message of an error in OpenAI's format, or the status if it has none. */
async function reason(response) {
  const wait = response.headers.get("Retry-After");
  const later = wait ? ` Try again in ${wait} s.` : "";
  try {
    return (await response.json()).error.message + later;
  } catch {
    return `the server answered ${response.status} ${response.statusText}.${later}`;
  }
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
