// Carries out calls on a session in Node: {bundle, batch, calls: [[method, ...arguments], ...]} on standard input; a list of
// results on standard output, `{error: kind}` for what was refused. Argument: the folder of the npm packages.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Forecaster } from "../../xlstm_export/web/page/forecaster.js";
import { Session, XlstmError, fromFolder } from "../../xlstm_export/web/page/session.js";

const ort = createRequire(`${process.argv[2]}/`)("onnxruntime-node");
const request = JSON.parse(readFileSync(0, "utf8"));

const plain = (value) => {
  if (ArrayBuffer.isView(value)) return Array.from(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
  return value ?? null;
};

const special = {
  save: async (session, path) => writeFileSync(path, await session.save()),
  load: (session, path) => session.load(readFileSync(path)),
  modelHash: async (session) => Buffer.from(await session.modelHash()).toString("hex"),
  forecast: (session, series, ...rest) => new Forecaster(session).forecast(series.map((v) => v ?? NaN), ...rest),
};

async function attempt(work) {
  try {
    return plain(await work());
  } catch (error) {
    if (error instanceof XlstmError) return { error: error.kind };
    throw error;
  }
}

const results = [];
let session = null;
const opened = await attempt(async () => {
  session = await Session.open(ort, await fromFolder(request.bundle), { batch: request.batch, threads: 1 });
});
if (opened?.error) results.push(opened);
else {
  for (const [method, ...given] of request.calls) {
    results.push(await attempt(() => (special[method] ? special[method](session, ...given) : session[method](...given))));
  }
}
process.stdout.write(JSON.stringify(results));
