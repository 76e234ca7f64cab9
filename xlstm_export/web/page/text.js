// Text as it is generated, and the conversation kept in a file.
import { DEFAULT_CHUNK } from "./session.js";
import { openTokenizer } from "./tokenizers.js";

const PAINT = 40; // milliseconds between looks at the page while the model runs
const FILE = "xlstm-conversation";
const byId = (id) => document.getElementById(id);

/**
 * @param {import("./session.js").Session} session
 * @param {{bundle: string, library: string, openSession: ((processor: string) => Promise<any>) | null}} page
 */
export async function showText(session, page) {
  const tokenizer = await openTokenizer(session.manifest, page.bundle);
  const conversation = new Conversation(session, tokenizer);
  let stopping = null;

  const report = (error) => {
    byId("error").hidden = false;
    byId("error").textContent = error.message ?? String(error);
  };
  const busy = (is) => {
    for (const id of ["generate", "restart", "save", "load", "processor"]) byId(id).disabled = is;
    byId("stop").disabled = !is;
    byId("error").hidden ||= is;
  };
  /** Run something that keeps the page busy. */
  const during = (work) => async () => {
    if (byId("generate").disabled) return;
    busy(true);
    stopping = new AbortController();
    try {
      await work(stopping.signal);
    } catch (error) {
      report(error);
    } finally {
      busy(false);
    }
  };

  const generate = during(async (signal) => {
    const text = byId("prompt").value;
    byId("prompt").value = "";
    write(text, "given");
    const most = Number(byId("tokens").value) || 1;
    const temperature = Math.max(0, Number(byId("temperature").value) || 0);
    const started = performance.now();
    let painted = started;
    let count = 0;
    let first = started;
    for await (const piece of conversation.go(text, most, temperature, signal)) {
      if (count++ === 0) first = performance.now();
      write(piece, "made");
      if (performance.now() - painted > PAINT) {
        showSpeed(count, performance.now() - first);
        await new Promise((resolve) => setTimeout(resolve));
        painted = performance.now();
      }
    }
    showSpeed(count, performance.now() - first, first - started);
  });

  byId("generate").addEventListener("click", generate);
  byId("stop").addEventListener("click", () => stopping?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopping?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  });
  byId("restart").addEventListener("click", during(async () => {
    await conversation.restart();
    byId("transcript").replaceChildren();
    byId("speed").textContent = "";
  }));
  byId("save").addEventListener("click", during(async () => {
    download(`${FILE}.json`, JSON.stringify({ format: FILE, ...(await conversation.save()), transcript: transcript() }));
  }));
  byId("load").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", during(async () => {
    const [file] = byId("file").files;
    byId("file").value = "";
    if (!file) return;
    const saved = parse(await file.text());
    await conversation.load(saved);
    byId("transcript").replaceChildren();
    for (const { text, kind } of saved.transcript) write(text, kind === "given" ? "given" : "made");
  }));
  if (page.openSession) {
    byId("processor-choice").hidden = false;
    byId("processor").addEventListener("change", during(async () => {
      await conversation.moveTo(await page.openSession(byId("processor").value));
    }));
  }
  byId("text").hidden = false;
  byId("prompt").focus();
}

/** What has been said. The last token that was drawn is not fed before it is known what follows it. */
class Conversation {
  #session;
  #tokenizer;
  #pending = []; // tokens that the session has not been fed
  #begun = false;

  constructor(session, tokenizer) {
    this.#session = session;
    this.#tokenizer = tokenizer;
  }

  /** Feed a text, then yield pieces of what follows, until the model ends it, enough is said, or it is stopped. */
  async *go(text, most, temperature, signal) {
    const { bos_token_id: bos, eos_token_ids: eos } = this.#session.manifest;
    let tokens = this.#tokenizer.encode(text, !this.#begun);
    if (!this.#begun && bos != null && tokens[0] !== bos) tokens = [bos, ...tokens];
    tokens = [...this.#pending, ...tokens];
    if (tokens.length === 0) throw new Error("Enter a text to go on from.");
    const stream = this.#tokenizer.stream(this.#pending); // what comes next may be written as it goes with these
    this.#begun = true;
    let logits;
    for (this.#pending = tokens; this.#pending.length; this.#pending = this.#pending.slice(DEFAULT_CHUNK)) {
      if (signal.aborted) return;
      logits = await this.#session.prefill([this.#pending.slice(0, DEFAULT_CHUNK)]);
    }
    for (let count = 0; count < most; count++) {
      const token = draw(logits, temperature);
      if (eos?.includes(token)) break;
      this.#pending = [token];
      yield stream.push(token);
      if (signal.aborted || count === most - 1) break;
      logits = await this.#session.step([token]);
      this.#pending = [];
    }
    yield stream.end();
  }

  async restart() {
    await this.#session.reset();
    this.#pending = [];
    this.#begun = false;
  }

  async save() {
    return { pending: this.#pending, begun: this.#begun, state: toBase64(await this.#session.save()) };
  }

  async load({ pending, begun, state }) {
    await this.#session.load(fromBase64(state));
    this.#pending = pending;
    this.#begun = begun;
  }

  async moveTo(session) {
    await session.writeStates(await this.#session.readStates());
    await this.#session.close();
    this.#session = session;
  }
}

/** A token by its probability; the likeliest at temperature 0. */
function draw(logits, temperature) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (temperature === 0) return best;
  const weights = Float64Array.from(logits, (value) => Math.exp((value - logits[best]) / temperature));
  let left = Math.random() * weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < weights.length; i++) if ((left -= weights[i]) < 0) return i;
  return best;
}

function parse(text) {
  let saved;
  try {
    saved = JSON.parse(text);
  } catch {
    saved = null;
  }
  const good =
    saved?.format === FILE &&
    typeof saved.state === "string" &&
    Array.isArray(saved.pending) &&
    Array.isArray(saved.transcript);
  if (!good) throw new Error("The file is no conversation that this page saved.");
  return saved;
}

function write(text, kind) {
  if (!text) return;
  const log = byId("transcript");
  let last = log.lastElementChild;
  if (last?.className !== kind) {
    last = document.createElement("span");
    last.className = kind;
    log.append(last);
  }
  last.append(text);
  log.scrollTop = log.scrollHeight;
}

const transcript = () =>
  Array.from(byId("transcript").children, (part) => ({ text: part.textContent, kind: part.className }));

function showSpeed(count, milliseconds, before = null) {
  const rate = count > 1 ? `${(((count - 1) / milliseconds) * 1000).toFixed(0)} tokens a second` : "";
  const wait = before === null ? "" : `, ${before.toFixed(0)} ms to the first`;
  byId("speed").textContent = rate + wait;
}

export function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text]));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
