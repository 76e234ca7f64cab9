/**
 * A session on a bundle in JavaScript, in browsers (onnxruntime-web) and in Node (onnxruntime-node). One file, to be
 * taken into projects of your own. The bundle is described in FORMAT.md of xlstm-export.
 *
 *     import * as ort from "onnxruntime-node";
 *     const session = await Session.open(ort, await fromFolder("bundle"));
 *     const logits = await session.prefill([[73, 110, 32]]);   // Float32Array, B x V
 *     const next = await session.step([32]);
 *
 * A session holds the states of B sequences, which advance together. Its methods are asynchronous and are carried out
 * in the order in which they were called.
 *
 * @typedef {{name: string, dtype: string, shape: (number|string|null)[]}} TensorSpec
 * @typedef {{input: string, output: string, dtype: string, shape: (number|string)[]}} StateSpec
 * @typedef {{data: Float32Array, dims: readonly number[]}} Values
 * @typedef {{manifestText: string, model: string|Uint8Array, files: {path: string, data: string|Uint8Array}[]}} Source
 */

/** What is wrong with a bundle, a state or an argument. `kind` is one of those of FORMAT.md. */
export class XlstmError extends Error {
  /** @param {"argument"|"bundle"|"state"|"runtime"|"unavailable"} kind @param {string} message */
  constructor(kind, message) {
    super(message);
    this.name = "XlstmError";
    this.kind = kind;
  }
}

/**
 * A bundle on a web server.
 * @param {string} address of the bundle's folder.
 * @param {(loaded: number, total: number) => void} [progress] told of the bytes of the weights.
 * @returns {Promise<Source>}
 */
export async function fromAddress(address, progress = () => {}) {
  const base = address.endsWith("/") ? address : `${address}/`;
  const manifestText = new TextDecoder().decode(await download(`${base}manifest.json`));
  const names = weightFiles(manifestText);
  const model = await download(`${base}model.onnx`);
  const files = [];
  for (const path of names) files.push({ path, data: await download(base + path, progress) });
  return { manifestText, model, files };
}

/**
 * A bundle on disk, for Node, which reads the weights from the folder itself.
 * @param {string} folder
 * @returns {Promise<Source>}
 */
export async function fromFolder(folder) {
  const { readFile } = await import("node:fs/promises");
  const { join } = await import("node:path");
  const manifestText = await readFile(join(folder, "manifest.json"), "utf8");
  return { manifestText, model: join(folder, "model.onnx"), files: [] };
}

async function download(address, progress = () => {}) {
  let response;
  try {
    response = await fetch(address);
  } catch (error) {
    throw new XlstmError("unavailable", `${address} cannot be reached: ${error.message}`);
  }
  if (!response.ok) throw new XlstmError("unavailable", `${address}: the server says ${response.status}.`);
  const total = Number(response.headers.get("content-length")) || 0;
  const parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    progress(loaded, total);
  }
  const bytes = new Uint8Array(loaded);
  loaded = 0;
  for (const part of parts) {
    bytes.set(part, loaded);
    loaded += part.length;
  }
  return bytes;
}

function weightFiles(manifestText) {
  return readManifest(manifestText).weight_files;
}

function readManifest(text) {
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch (error) {
    throw new XlstmError("bundle", `manifest.json is no JSON: ${error.message}`);
  }
  if (manifest?.format !== "xlstm-bundle") throw new XlstmError("bundle", "manifest.json is not that of a bundle.");
  if (manifest.format_version !== FORMAT_VERSION) {
    throw new XlstmError(
      "bundle",
      `The bundle has format ${manifest.format_version}, this program reads ${FORMAT_VERSION}. Export it again.`,
    );
  }
  return manifest;
}

const FORMAT_VERSION = 3;
const ARRAYS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array };

/** Positions of one pass of a prompt. */
export const DEFAULT_CHUNK = 256;

export class Session {
  #ort;
  #session;
  #source;
  #states;
  #queue = Promise.resolve();

  /**
   * @param {any} ort the module `onnxruntime-web` or `onnxruntime-node`.
   * @param {Source} source from `fromAddress` or `fromFolder`.
   * @param {{batch?: number, executionProviders?: string[], threads?: number}} [options]
   * @returns {Promise<Session>}
   * @throws {XlstmError} the bundle is damaged, or the runtime cannot load it.
   */
  static async open(ort, source, options = {}) {
    const manifest = readManifest(source.manifestText);
    const batch = options.batch ?? manifest.batch ?? 1;
    if (manifest.dtype === "bfloat16" || manifest.states.some((state) => state.dtype !== "float32")) {
      throw new XlstmError("unavailable", "JavaScript runs float32 and float16 bundles with float32 states: export it so.");
    }
    if (manifest.batch !== null && batch !== manifest.batch) {
      throw new XlstmError("argument", `The bundle was exported for batch ${manifest.batch}, not ${batch}.`);
    }
    const onGpu = options.executionProviders?.includes("webgpu") ?? false;
    let session;
    try {
      session = await ort.InferenceSession.create(source.model, {
        ...(source.files.length && { externalData: source.files }),
        ...(options.executionProviders && { executionProviders: options.executionProviders }),
        ...(options.threads && { intraOpNumThreads: options.threads }),
        ...(onGpu && { preferredOutputLocation: Object.fromEntries(manifest.states.map((s) => [s.output, "gpu-buffer"])) }),
        logSeverityLevel: 3,
      });
    } catch (error) {
      throw new XlstmError("bundle", `ONNX Runtime cannot load the model: ${error.message ?? error}`);
    }
    return new Session(ort, session, source, manifest, batch);
  }

  /** Call `Session.open`. */
  constructor(ort, session, source, manifest, batch) {
    this.#ort = ort;
    this.#session = session;
    this.#source = source;
    /** The bundle's manifest, as FORMAT.md has it. */
    this.manifest = manifest;
    /** The number of sequences, B. */
    this.batch = batch;
    this.#states = manifest.states.map((state) => this.#zeros(state));
  }

  /** The width of the output of a bundle with one. */
  get width() {
    return this.manifest.outputs[0].shape.at(-1);
  }

  #zeros(state) {
    const dims = [this.batch, ...state.shape.slice(1)];
    return new this.#ort.Tensor(state.dtype, new ARRAYS[state.dtype](product(dims)), dims);
  }

  /** One thing after the other. */
  #next(work) {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => {});
    return result;
  }

  /**
   * One pass, of any bundle. It advances the states.
   * @param {Record<string, ArrayLike<number>>} inputs by name, dense, row after row, in the manifest's shape.
   * @param {number} positions of the pass, S; 1 in mode `step`.
   * @param {ArrayLike<number>} [lengths] how many positions of each row are there; all where it is left out.
   * @returns {Promise<Record<string, Values>>} the outputs by name.
   */
  run(inputs, positions = 1, lengths = undefined) {
    return this.#next(() => this.#run(inputs, positions, lengths));
  }

  async #run(inputs, positions, lengths) {
    const { manifest, batch } = this;
    if (!Number.isInteger(positions) || positions < 1 || (manifest.mode === "step" && positions !== 1)) {
      throw new XlstmError("argument", `A pass over ${positions} positions is not for mode ${manifest.mode}.`);
    }
    const feeds = {};
    for (const spec of manifest.inputs) feeds[spec.name] = this.#tensor(spec, inputs[spec.name], positions);
    if (manifest.lengths) {
      const given = lengths ?? new Array(batch).fill(positions);
      if (given.length !== batch || !Array.from(given).every((n) => Number.isInteger(n) && n >= 0 && n <= positions)) {
        throw new XlstmError("argument", `Lengths are ${batch} numbers from 0 to ${positions}.`);
      }
      feeds[manifest.lengths.name] = new this.#ort.Tensor("int32", Int32Array.from(given), [batch]);
    } else if (lengths && Array.from(lengths).some((n) => n !== positions)) {
      throw new XlstmError("argument", `A bundle of mode ${manifest.mode} has no lengths.`);
    }
    manifest.states.forEach((state, i) => (feeds[state.input] = this.#states[i]));
    let found;
    try {
      found = await this.#session.run(feeds);
    } catch (error) {
      throw new XlstmError("runtime", `ONNX Runtime failed in a pass over ${positions} positions: ${error.message ?? error}`);
    }
    const before = this.#states;
    this.#states = manifest.states.map((state) => found[state.output]);
    before.forEach((tensor) => tensor.dispose?.());
    const outputs = {};
    for (const { name } of manifest.outputs) outputs[name] = { data: await found[name].getData(), dims: found[name].dims };
    return outputs;
  }

  #tensor(spec, values, positions) {
    const dims = spec.shape.map((axis) => (axis === "batch" ? this.batch : axis === "sequence" ? positions : axis));
    if (!values || values.length !== product(dims)) {
      const found = values ? `${values.length} values` : "nothing";
      throw new XlstmError("argument", `Input ${spec.name} takes ${dims.join(" x ")} values, and was given ${found}.`);
    }
    const vocabulary = this.manifest.vocab_size;
    if (vocabulary !== null && Array.from(values).some((n) => !(Number(n) >= 0 && Number(n) < vocabulary))) {
      throw new XlstmError("argument", `Tokens are numbers from 0 to ${vocabulary - 1}.`);
    }
    const data = spec.dtype === "int64" ? BigInt64Array.from(values, (n) => BigInt(n)) : ARRAYS[spec.dtype].from(values);
    return new this.#ort.Tensor(spec.dtype, data, dims);
  }

  #single() {
    const { inputs, outputs, mode } = this.manifest;
    if (inputs.length !== 1 || outputs.length !== 1 || mode === "window") {
      throw new XlstmError("argument", "This is for one input and one output of a stream: use `run`, which goes by names.");
    }
  }

  /**
   * One position for each row.
   * @param {ArrayLike<number>} values B tokens, or B vectors row after row.
   * @returns {Promise<Float32Array>} logits or outputs, (B, width).
   */
  async step(values) {
    this.#single();
    const { inputs, outputs } = this.manifest;
    return (await this.run({ [inputs[0].name]: values }))[outputs[0].name].data;
  }

  /**
   * A prompt for each row, in passes of at most `chunk` positions.
   * @param {ArrayLike<number>[]} prompts B lists of tokens, or of vectors laid end to end; they may differ in length.
   * @param {{chunk?: number, progress?: (positions: number) => void}} [options]
   * @returns {Promise<Float32Array>} logits or outputs after each row's last position, (B, width); zeros for none.
   */
  async prefill(prompts, { chunk = DEFAULT_CHUNK, progress = () => {} } = {}) {
    this.#single();
    const { inputs, outputs, mode, lengths: takesLengths } = this.manifest;
    const item = inputs[0].shape.slice(2).reduce((a, b) => a * b, 1); // numbers a position
    if (prompts.length !== this.batch) {
      throw new XlstmError("argument", `${prompts.length} prompts for a batch of ${this.batch}: give one a row.`);
    }
    const lengths = prompts.map((prompt) => prompt.length / item);
    if (mode === "step" && lengths.some((n) => n !== lengths[0])) {
      throw new XlstmError("argument", "A bundle of mode step takes prompts of one length.");
    }
    const size = mode === "step" ? 1 : chunk;
    const result = new Float32Array(this.batch * this.width);
    for (let start = 0; start < Math.max(...lengths); start += size) {
      const here = lengths.map((n) => Math.min(Math.max(n - start, 0), size));
      const positions = Math.max(...here);
      const block = new Float64Array(this.batch * positions * item);
      prompts.forEach((prompt, row) => {
        const part = Array.prototype.slice.call(prompt, start * item, (start + here[row]) * item);
        block.set(part, row * positions * item);
      });
      const found = await this.run({ [inputs[0].name]: block }, positions, takesLengths ? here : undefined);
      const { data, dims } = found[outputs[0].name];
      here.forEach((n, row) => {
        if (n === 0 || start + n !== lengths[row]) return;
        const at = (row * dims[1] + (dims[1] > 1 ? n - 1 : 0)) * this.width;
        result.set(data.subarray(at, at + this.width), row * this.width);
      });
      progress(positions);
    }
    return result;
  }

  /** Begin anew: all rows, or one. @param {number} [row] @returns {Promise<void>} */
  reset(row = undefined) {
    return this.#next(async () => {
      if (row === undefined) {
        this.#replace(this.manifest.states.map((state) => this.#zeros(state)));
        return;
      }
      if (!Number.isInteger(row) || row < 0 || row >= this.batch) {
        throw new XlstmError("argument", `There is no row ${row}: rows are 0 to ${this.batch - 1}.`);
      }
      const values = await this.#read();
      for (const value of values) value.subarray((row * value.length) / this.batch, ((row + 1) * value.length) / this.batch).fill(0);
      this.#write(values);
    });
  }

  #replace(tensors) {
    this.#states.forEach((tensor) => tensor.dispose?.());
    this.#states = tensors;
  }

  async #read() {
    const values = [];
    for (const tensor of this.#states) values.push((await tensor.getData()).slice());
    return values;
  }

  #write(values) {
    this.#replace(
      this.manifest.states.map((state, i) => {
        const dims = [this.batch, ...state.shape.slice(1)];
        return new this.#ort.Tensor("float32", values[i], dims);
      }),
    );
  }

  /** Copies of all states by name, float32. @returns {Promise<Record<string, Float32Array>>} */
  readStates() {
    return this.#next(async () => {
      const values = await this.#read();
      return Object.fromEntries(this.manifest.states.map((state, i) => [state.input, values[i]]));
    });
  }

  /** Set all states. @param {Record<string, Float32Array>} states as `readStates` gives them. @returns {Promise<void>} */
  writeStates(states) {
    return this.#next(async () => {
      const values = this.manifest.states.map(({ input, shape }) => {
        const size = this.batch * product(shape.slice(1));
        if (states[input]?.length !== size) throw new XlstmError("state", `State ${input} takes ${size} numbers.`);
        return Float32Array.from(states[input]);
      });
      this.#write(values);
    });
  }

  /** The states as a file that every runtime of xlstm-export loads. @returns {Promise<Uint8Array>} */
  save() {
    return this.#next(async () => {
      const values = await this.#read();
      const head = await this.#stateHead();
      const file = new Uint8Array(START + head.length + values.reduce((sum, value) => sum + value.byteLength, 0));
      const view = new DataView(file.buffer);
      file.set(MAGIC);
      view.setUint32(8, STATE_VERSION, true);
      view.setBigUint64(16, BigInt(file.length - START), true);
      file.set(head, START);
      let at = START + head.length;
      for (const value of values) {
        file.set(new Uint8Array(value.buffer, value.byteOffset, value.byteLength), at);
        at += value.byteLength;
      }
      view.setUint32(12, crc32c(file.subarray(16)), true);
      return file;
    });
  }

  /** Set the states to those of a file. @param {Uint8Array} file @returns {Promise<void>} */
  load(file) {
    return this.#next(async () => {
      const refuse = (reason) => {
        throw new XlstmError("state", `The saved state ${reason}`);
      };
      file = Uint8Array.from(file); // of its own buffer, aligned
      const view = new DataView(file.buffer);
      if (file.length < START || !MAGIC.every((byte, i) => file[i] === byte)) refuse("is no file of a saved state.");
      const version = view.getUint32(8, true);
      if (version !== STATE_VERSION) refuse(`has version ${version}, this program reads ${STATE_VERSION}.`);
      if (view.getBigUint64(16, true) !== BigInt(file.length - START)) refuse("is cut off, or has something behind it.");
      if (view.getUint32(12, true) !== crc32c(file.subarray(16))) refuse("is damaged.");
      const head = await this.#stateHead();
      const found = file.subarray(START, START + head.length);
      if (!head.subarray(0, HASH).every((byte, i) => found[i] === byte)) refuse("is of another model.");
      const batch = view.getUint32(START + HASH, true);
      if (batch !== this.batch) refuse(`is of ${batch} rows, and this session has ${this.batch}.`);
      const bytes = this.manifest.states.reduce((sum, s) => sum + 4 * this.batch * product(s.shape.slice(1)), 0);
      if (file.length !== START + head.length + bytes || !head.every((byte, i) => found[i] === byte)) {
        refuse("has other states than the model.");
      }
      let at = START + head.length;
      const values = this.manifest.states.map((state) => {
        const size = 4 * this.batch * product(state.shape.slice(1));
        const value = new Float32Array(file.slice(at, at + size).buffer);
        at += size;
        return value;
      });
      this.#write(values);
    });
  }

  async #stateHead() {
    const ranks = this.manifest.states.map((state) => state.shape.length - 1);
    const head = new Uint8Array(HASH + 8 + ranks.reduce((sum, rank) => sum + 4 + 4 * rank, 0));
    head.set(await this.modelHash());
    const view = new DataView(head.buffer);
    view.setUint32(HASH, this.batch, true);
    view.setUint32(HASH + 4, ranks.length, true);
    let at = HASH + 8;
    for (const state of this.manifest.states) {
      for (const number of [state.shape.length - 1, ...state.shape.slice(1)]) {
        view.setUint32(at, number, true);
        at += 4;
      }
    }
    return head;
  }

  /** What is equal for all bundles of one checkpoint, SHA-256. @returns {Promise<Uint8Array>} */
  async modelHash() {
    if (!globalThis.crypto?.subtle) {
      throw new XlstmError("unavailable", "States are saved and loaded on pages from https or localhost only.");
    }
    const text = canonical(this.#source.manifestText, "architecture");
    const checksum = this.manifest.source.sha256;
    const parts = [new TextEncoder().encode(`${text}\0${checksum ?? ""}\0`)];
    if (checksum === null) parts.push(...(await this.#weights()));
    return new Uint8Array(await crypto.subtle.digest("SHA-256", joined(parts)));
  }

  async #weights() {
    const { model, files } = this.#source;
    if (files.length) return files.map((file) => file.data);
    const { readFile } = await import("node:fs/promises");
    const { dirname, join } = await import("node:path");
    return Promise.all(this.manifest.weight_files.map((name) => readFile(join(dirname(model), name))));
  }

  /** Give the memory back. @returns {Promise<void>} */
  close() {
    return this.#next(() => this.#session.release());
  }
}

const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

// ---- Saved states (FORMAT.md, "A saved state")

const MAGIC = [0x89, 0x58, 0x4c, 0x53, 0x54, 0x4d, 0x0d, 0x0a];
const STATE_VERSION = 1;
const START = 24; // of what the announced size counts
const HASH = 32;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * The text of one value of a JSON object, as FORMAT.md's hash has it: no white space, keys in the order of their bytes.
 * `JSON.parse` cannot serve: it makes one number of 15 and 15.0.
 */
function canonical(text, wanted) {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[-+.\w]+|[{}[\],:]/gsu);
  let at = 0;
  const value = () => {
    const token = tokens[at++];
    if (token === "[") return `[${series("]", value).join(",")}]`;
    if (token !== "{") return token[0] === '"' ? quoted(JSON.parse(token)) : number(token);
    return `{${sorted(members()).map(([key, item]) => `${quoted(key)}:${item}`).join(",")}}`;
  };
  const members = () =>
    series("}", () => {
      const key = JSON.parse(tokens[at++]);
      at++; // the colon
      return [key, value()];
    });
  const series = (end, item) => {
    const found = [];
    while (tokens[at] !== end) {
      found.push(item());
      if (tokens[at] === ",") at++;
    }
    at++;
    return found;
  };
  at++; // the outermost brace
  return new Map(members()).get(wanted);
}

function sorted(members) {
  const encoder = new TextEncoder();
  const byBytes = ([a], [b]) => {
    const [x, y] = [encoder.encode(a), encoder.encode(b)];
    const at = x.findIndex((byte, i) => byte !== y[i]);
    return at < 0 ? x.length - y.length : (x[at] ?? -1) - (y[at] ?? -1);
  };
  return [...new Map(members)].sort(byBytes);
}

const ESCAPES = { '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

function quoted(text) {
  const units = text.split("").map((unit) => {
    if (ESCAPES[unit]) return ESCAPES[unit];
    return unit >= " " && unit <= "~" ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
  return `"${units.join("")}"`;
}

/** Integers as digits; other numbers as the shortest that reads back the same, in Python's notation. */
function number(token) {
  if (!/^-?[\d.]/.test(token) || !/[.eE]/.test(token)) return token === "-0" ? "0" : token; // a word, or an integer
  const value = Number(token);
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [digits, exponent] = value.toExponential().split("e");
  const power = Number(exponent);
  if (power < -4 || power >= 15) {
    const size = Math.abs(power).toString().padStart(2, "0");
    return `${digits}e${power < 0 ? "-" : "+"}${size}`;
  }
  const plain = value.toString();
  if (plain.includes("e")) return value.toFixed(Math.max(0, digits.replace(/[-.]/g, "").length - 1 - power));
  return plain.includes(".") ? plain : `${plain}.0`;
}
