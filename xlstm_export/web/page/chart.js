// A forecast of pasted numbers: history, median and bands, as a chart and as CSV.
import { Forecaster } from "./forecaster.js";
import { download } from "./text.js";

const WIDTH = 720;
const HEIGHT = 320;
const MARGIN = { left: 56, right: 12, top: 12, bottom: 28 };
const SHOWN = 4; // horizons of history beside the forecast
const byId = (id) => document.getElementById(id);

/** @param {import("./session.js").Session} session */
export function showChart(session) {
  const forecaster = new Forecaster(session);
  const levels = forecaster.spec.quantiles;
  let points = [];

  const run = async () => {
    if (byId("forecast").disabled) return;
    byId("forecast").disabled = true;
    byId("error").hidden = true;
    try {
      const series = parseSeries(byId("series").value);
      const horizon = Number(byId("horizon").value);
      const started = performance.now();
      points = await forecaster.forecast(series, horizon, {
        progress: (count) => (byId("forecast-speed").textContent = `${count} of ${horizon} points`),
      });
      byId("forecast-speed").textContent = `${horizon} points in ${(performance.now() - started).toFixed(0)} ms`;
      draw(series, points, levels);
      byId("csv").disabled = false;
    } catch (error) {
      byId("error").hidden = false;
      byId("error").textContent = error.message ?? String(error);
    } finally {
      byId("forecast").disabled = false;
    }
  };

  byId("forecast").addEventListener("click", run);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  byId("csv").addEventListener("click", () => {
    const lines = points.map((values, index) => [index + 1, ...values].join(","));
    download("forecast.csv", ["step", ...levels].join(",") + "\n" + lines.join("\n") + "\n");
  });
  byId("chart").hidden = false;
  byId("series").focus();
}

/** Numbers between commas, semicolons, blanks or line ends; NaN for `-`, `nan`, `na` and `null`. */
export function parseSeries(text) {
  const words = text.split(/[\s,;]+/u).filter(Boolean);
  if (words.length === 0) throw new Error("Enter some numbers, the newest last.");
  return words.map((word, index) => {
    if (/^(-|nan|na|null)$/iu.test(word)) return NaN;
    const value = Number(word);
    if (!Number.isFinite(value)) throw new Error(`Value ${index + 1} is "${word}", which is no number.`);
    return value;
  });
}

function draw(series, points, levels) {
  const history = series.slice(-Math.max(points.length * SHOWN, 32));
  const values = [...history.filter((v) => !Number.isNaN(v)), ...points.flatMap((p) => [...p])];
  const ticks = ticksOf(Math.min(...values), Math.max(...values));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const count = history.length + points.length;
  const x = (i) => MARGIN.left + ((i + 0.5) / count) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (v) => HEIGHT - MARGIN.bottom - ((v - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const start = history.length;
  const middle = levels.reduce((best, level, i) => (Math.abs(level - 0.5) < Math.abs(levels[best] - 0.5) ? i : best), 0);

  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "History and forecast" });
  for (const tick of ticks) {
    svg.append(element("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(tick), y2: y(tick) }));
    svg.append(label(MARGIN.left - 6, y(tick) + 4, "end", String(Number(tick.toPrecision(6)))));
  }
  for (const at of [0, Math.floor(start / 2), start, count - 1]) {
    svg.append(label(x(at), HEIGHT - 8, "middle", at < start ? String(at - start) : `+${at - start + 1}`));
  }
  for (let i = 0; 2 * i < levels.length - 1; i++) {
    const upper = points.map((p, t) => `${x(start + t)},${y(p[levels.length - 1 - i])}`);
    const lower = points.map((p, t) => `${x(start + t)},${y(p[i])}`).reverse();
    svg.append(element("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
  }
  svg.append(element("path", { class: "known", d: path(history.map((v, i) => [x(i), y(v)])) }));
  svg.append(element("path", { class: "median", d: path(points.map((p, t) => [x(start + t), y(p[middle])])) }));
  byId("plot").replaceChildren(svg);
  const bands = `${levels[0]} to ${levels.at(-1)}`;
  byId("legend").textContent = `Median and bands between the quantiles ${bands}; positions count from the last value.`;
  byId("figure").hidden = false;
}

/** Round numbers that span the values. */
function ticksOf(least, most) {
  const span = most - least || Math.abs(most) || 1;
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = [1, 2, 5, 10].find((n) => (n * power * 6) / span >= 1) * power;
  const first = Math.floor(least / step);
  return Array.from({ length: Math.max(Math.ceil(most / step) - first, 1) + 1 }, (_, i) => (first + i) * step);
}

/** Lines between neighbours; a missing value leaves a gap. */
function path(dots) {
  let pen = "M";
  let line = "";
  for (const [x, y] of dots) {
    if (Number.isNaN(y)) {
      pen = "M";
      continue;
    }
    line += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return line;
}

function element(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function label(x, y, anchor, text) {
  const node = element("text", { x, y, "text-anchor": anchor });
  node.textContent = text;
  return node;
}
