// The page: finds out what the browser can do, loads the bundle, and shows what suits the model.
import { showChart } from "./chart.js";
import { Session, fromAddress } from "./session.js";
import { showText } from "./text.js";

const BUNDLE = new URL("bundle/", import.meta.url).href;
const LIBRARY = new URL("library/", import.meta.url).href;
const byId = (id) => document.getElementById(id);

function fail(error) {
  byId("loading").hidden = true;
  byId("error").hidden = false;
  byId("error").textContent = error.message ?? String(error);
  console.error(error);
}

/** Headers for threads, where the server does not send them: by a service worker, after which the page loads anew. */
async function enableThreads() {
  if (self.crossOriginIsolated || !navigator.serviceWorker || sessionStorage.threads) return;
  sessionStorage.threads = "asked"; // once: where it does not help, the page runs on one thread
  try {
    await navigator.serviceWorker.register("threads.js");
    await navigator.serviceWorker.ready;
  } catch {
    return;
  }
  location.reload();
  await new Promise(() => {}); // until the page is gone
}

async function hasWebGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

/** @param {"wasm"|"webgpu"} processor */
async function loadLibrary(processor) {
  const ort = await import(processor === "webgpu" ? "./library/ort.webgpu.min.mjs" : "./library/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = LIBRARY;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.logLevel = "error";
  return ort;
}

let source; // downloaded once, whatever runs it

/** @param {"wasm"|"webgpu"} processor */
async function openSession(processor) {
  const ort = await loadLibrary(processor);
  return Session.open(ort, source, { batch: 1, executionProviders: [processor] });
}

function describe(manifest, session) {
  const bytes = source.files.reduce((sum, file) => sum + file.data.length, source.model.length);
  const states = manifest.states.reduce((sum, s) => sum + 4 * s.shape.slice(1).reduce((a, b) => a * b, 1), 0);
  const threads = self.crossOriginIsolated ? `${Math.min(navigator.hardwareConcurrency || 1, 8)} threads` : "one thread";
  const size = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`);
  return `${manifest.family}, ${manifest.dtype}: ${size(bytes)} of weights, ${size(states)} of states, ${threads}.`;
}

async function main() {
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, which the model runs on.");
  if (typeof BigInt64Array !== "function") throw new Error("This browser is too old: it has no 64-bit integers.");
  await enableThreads();
  const site = await (await fetch(new URL("site.json", import.meta.url))).json();
  byId("title").textContent = document.title = site.title;
  source = await fromAddress(BUNDLE, (loaded, total) => {
    byId("progress").value = total ? loaded / total : 0;
    byId("status").textContent = `Loading the weights: ${(loaded / 1e6).toFixed(1)} MB`;
  });
  byId("progress").removeAttribute("value");
  byId("status").textContent = "Preparing the model";
  const session = await openSession("wasm");
  byId("facts").textContent = describe(session.manifest);
  byId("loading").hidden = true;
  const { forecast } = session.manifest;
  if (forecast) showChart(session);
  else await showText(session, { bundle: BUNDLE, library: LIBRARY, openSession: (await hasWebGpu()) ? openSession : null });
  document.body.dataset.ready = "yes";
}

main().catch(fail);
