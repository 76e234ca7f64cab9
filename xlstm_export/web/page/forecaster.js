/**
 * Exact forecasts from a session of a forecaster (TiRex), as FORMAT.md's section on forecasts has them.
 *
 *     const forecaster = new Forecaster(session);
 *     const points = await forecaster.forecast([112, 118, NaN, 129], 24); // one Float32Array of quantiles a point
 */
import { XlstmError } from "./session.js";

const LEAST = Math.fround(1e-5); // what the scale of a constant window is beyond its distance from zero

export class Forecaster {
  #session;

  /** @param {import("./session.js").Session} session of batch 1; its states are overwritten. */
  constructor(session) {
    const { forecast } = session.manifest;
    if (!forecast) throw new XlstmError("argument", "The bundle is no forecaster: its manifest has no `forecast`.");
    const known = { scaler: "standard", missing: "zero", padding: "left", rollout: "masked" };
    for (const [key, value] of Object.entries(known)) {
      if (forecast[key] !== value) {
        throw new XlstmError("unavailable", `The bundle's ${key} is ${forecast[key]}; this page knows ${value}.`);
      }
    }
    if (session.batch !== 1) throw new XlstmError("argument", "A forecaster takes a session of batch 1.");
    this.#session = session;
    /** How the graph is fed. */
    this.spec = forecast;
  }

  /**
   * What comes after a series.
   * @param {ArrayLike<number>} series the newest value last, NaN where missing.
   * @param {number} horizon points to forecast.
   * @param {{rollout?: number, progress?: (points: number) => void}} [options] patches that one window is used for.
   * @returns {Promise<Float32Array[]>} for each point its quantiles, in the order of `spec.quantiles`.
   */
  async forecast(series, horizon, { rollout = 1, progress = () => {} } = {}) {
    if (!(Number.isInteger(horizon) && horizon >= 1)) throw new XlstmError("argument", "The horizon is 1 or more points.");
    const { patch, context } = this.spec;
    let known = Array.from(series, Math.fround);
    if (known.some((value) => Math.abs(value) === Infinity)) {
      throw new XlstmError("argument", "The series has a value that float32 does not hold.");
    }
    const points = [];
    for (let remaining = Math.ceil(horizon / patch); remaining > 0; ) {
      const count = Math.min(rollout, remaining);
      const window = new Float32Array(context).fill(NaN);
      const newest = known.slice(-context);
      window.set(newest, context - newest.length);
      const { loc, scale } = scalingOf(window);
      let output = await this.#runWindow(window.map((value) => (value - loc) / scale));
      for (let index = 0; ; index++) {
        points.push(...pointsOf(output, patch, loc, scale));
        if (index === count - 1) break;
        output = await this.#session.step(new Float32Array(2 * patch));
      }
      remaining -= count;
      known = [...newest, ...new Array(count * patch).fill(NaN)];
      progress(Math.min(points.length, horizon));
    }
    return points.slice(0, horizon);
  }

  async #runWindow(scaled) {
    const { patch } = this.spec;
    const input = new Float32Array(2 * scaled.length);
    scaled.forEach((value, i) => {
      const at = Math.floor(i / patch) * 2 * patch + (i % patch);
      input[at] = Number.isNaN(value) ? 0 : value;
      input[at + patch] = Number.isNaN(value) ? 0 : 1;
    });
    await this.#session.reset();
    return this.#session.prefill([input]);
  }
}

/** Mean and standard deviation of what is there: sums in double precision, results in float32. */
function scalingOf(window) {
  const there = window.filter((value) => !Number.isNaN(value));
  if (there.length === 0) return { loc: 0, scale: 1 };
  const loc = Math.fround(there.reduce((sum, value) => sum + value, 0) / there.length);
  const squares = there.reduce((sum, value) => sum + Math.fround(value - loc) ** 2, 0);
  const scale = Math.fround(Math.sqrt(squares / there.length));
  return { loc, scale: scale === 0 ? Math.fround(Math.abs(loc) + LEAST) : scale };
}

function pointsOf(output, patch, loc, scale) {
  const levels = output.length / patch;
  return Array.from({ length: patch }, (_, t) =>
    Float32Array.from({ length: levels }, (_, q) => Math.fround(output[q * patch + t] * scale) + loc),
  );
}
