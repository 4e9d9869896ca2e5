// Draws runs: curves, samples, settings. `perceiver report` puts this into a page that holds the data; in `perceiver serve --runs`
// live.js brings the data.
import {parseMidi} from "./midi.js";
import {Roll} from "./roll.js";
import {Synth} from "./synth.js";

/// As report_data in src/report/report_page.h.
export const data = { runs: [] };
const colours = ["#0b63c5", "#d1571b", "#1a7f37", "#8b3fc1", "#b5850b", "#0f8b8d", "#c2255c", "#5c6b7a"];
const synth = new Synth();  // of one sample at a time
const byId = (id) => document.getElementById(id);
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const svgElement = (tag, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const kNats = Math.LN2;
const colourOf = (i) => colours[i % colours.length];
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
function shortNumber(x) {
  const size = Math.abs(x);
  if (size >= 1e9) return (x / 1e9).toFixed(size < 1e10 ? 1 : 0) + "G";
  if (size >= 1e6) return (x / 1e6).toFixed(size < 1e7 ? 1 : 0) + "M";
  if (size >= 1e4) return (x / 1e3).toFixed(0) + "k";
  if (size !== 0 && size < 1e-3) return x.toExponential(1);
  return String(Number(x.toPrecision(4)));
}
function duration(seconds) {
  const s = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

// Targets trained until each entry: speed times time, since the entry before.
function countTargets(run) {
  let targets = 0, before = 0;
  for (const entry of run.entries) {
    if (isNumber(entry.targets_per_second)) targets += entry.targets_per_second * Math.max(0, entry.elapsed - before);
    before = entry.elapsed;
    entry.tokens = targets;
  }
}
function interpolate(run, step, key) {
  const entries = run.entries;
  if (entries.length === 0) return null;
  let above = entries.findIndex((e) => e.step >= step);
  if (above < 0) above = entries.length - 1;
  const b = entries[above], a = above > 0 ? entries[above - 1] : { step: 0, [key]: 0 };
  return b.step === a.step ? b[key] : a[key] + ((b[key] - a[key]) * Math.min(1, (step - a.step) / (b.step - a.step)));
}
function place(run, item) {
  const axis = byId("axis").value;
  if (axis === "step") return item.step;
  const key = axis === "tokens" ? "tokens" : "elapsed";
  return isNumber(item[key]) ? item[key] : interpolate(run, item.step, key);
}
const axisText = (x) => (byId("axis").value === "time" ? duration(x) : shortNumber(x));

function runsTable() {
  const rows = [["", "run", "state", "step", "best validation", "at step", "training loss", "speed", "time", "checkpoints"]];
  const table = byId("runs");
  table.replaceChildren(element("tr", {}, ...rows[0].map((name) => element("th", {}, name))));
  data.runs.forEach((run, i) => {
    const last = run.entries.at(-1), best = bestValidation(run);
    const cells = [
      element("td", {}, element("span", { class: "swatch", style: `background:${colourOf(i)}` })),
      element("td", { title: run.folder }, run.name),
      element("td", {}, element("span", { class: `state ${run.state}` }, run.state)),
      element("td", { class: "number" }, run.steps ? `${run.step} / ${run.steps}` : String(run.step)),
      element("td", { class: "number" }, best ? validationText(best) : "–"),
      element("td", { class: "number" }, best ? String(best.step) : "–"),
      element("td", { class: "number" }, last && isNumber(last.loss) ? `${last.loss.toFixed(4)} nats` : "–"),
      element("td", { class: "number" }, last ? `${shortNumber(last.targets_per_second)} targets/s` : "–"),
      element("td", { class: "number" }, last ? duration(last.elapsed) : "–"),
      element("td", {}, checkpointsText(run)),
    ];
    table.append(element("tr", {}, ...cells));
  });
}
function bestValidation(run) {
  return run.validations.filter((v) => isNumber(v.validation_loss)).reduce((best, v) => (!best || v.validation_loss < best.validation_loss ? v : best), null);
}
export function validationText(validation) {
  const unit = Object.keys(validation).find((key) => key.startsWith("validation_bits_per_"));
  const text = `${validation.validation_loss.toFixed(4)} nats`;
  return unit ? `${text}, ${validation[unit].toFixed(4)} bits per ${unit.slice("validation_bits_per_".length)}` : text;
}
function checkpointsText(run) {
  if (run.checkpoints.length === 0) return "none";
  return run.checkpoints.map((step) => (step === run.best_checkpoint ? `${step} (best)` : String(step))).join(", ");
}

// One curve: {run index, points [[x, y]], dashed}.
function series(values, key, scale = 1, dashed = false) {
  return data.runs.map((run, i) => ({
    index: i,
    name: run.name,
    dashed,
    points: values(run).filter((v) => isNumber(v[key])).map((v) => [place(run, v), v[key] * scale]).filter((p) => isNumber(p[0])),
  })).filter((s) => s.points.length > 0);
}
function smoothed(points, share) {
  let mean = null;
  return points.map(([x, y]) => [x, (mean = mean === null ? y : share * mean + (1 - share) * y)]);
}
function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw) || raw;
  const all = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) all.push(Number(t.toPrecision(12)));
  return all;
}
function plot(title, note, curves, options = {}) {
  const width = 420, height = 250, left = 52, right = 8, top = 8, bottom = 24;
  const figure = element("figure", {}, element("figcaption", {}, title, " ", element("small", {}, note)));
  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${curves.map((c) => c.name).join(", ")}` });
  figure.append(svg);
  const share = options.smooth ? Number(byId("smoothing").value) : 0, logarithmic = options.logX ?? byId("log").checked;
  const toX = (x) => (logarithmic ? Math.log10(Math.max(1, x)) : x);
  const drawn = curves.map((c) => ({ ...c, shown: smoothed(c.points, share) }));
  const ys = drawn.flatMap((c) => c.shown.map((p) => p[1])).sort((a, b) => a - b);
  // The first entries of a loss are far above the rest; the scale shows what matters later.
  const high = ys[Math.floor((ys.length - 1) * (options.smooth && ys.length > 20 ? 0.97 : 1))], low = options.fromZero ? Math.min(0, ys[0]) : ys[0];
  const pad = (high - low || Math.abs(high) || 1) * 0.05, y0 = low - (options.fromZero ? 0 : pad), y1 = high + pad;
  const xs = drawn.flatMap((c) => c.shown.map((p) => toX(p[0])));
  const x0 = Math.min(...xs), x1 = Math.max(...xs) || 1;
  const px = (x) => left + ((toX(x) - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => top + ((y1 - y) / (y1 - y0)) * (height - top - bottom);
  for (const t of ticks(y0, y1, 5)) {
    svg.append(svgElement("line", { class: "grid", x1: left, x2: width - right, y1: py(t), y2: py(t) }));
    const label = svgElement("text", { x: left - 6, y: py(t) + 4, "text-anchor": "end" });
    label.textContent = shortNumber(t);
    svg.append(label);
  }
  const marks = options.marks?.filter((t) => toX(t) >= x0 && toX(t) <= x1) ?? (logarithmic ? ticks(x0, x1, 4).map((t) => 10 ** t) : ticks(x0, x1, 5));
  for (const t of marks) {
    const label = svgElement("text", { x: px(t), y: height - 6, "text-anchor": px(t) > width - 24 ? "end" : "middle" });
    label.textContent = (options.xText ?? axisText)(t);
    svg.append(label);
  }
  const path = (points) => "M" + points.map(([x, y]) => `${px(x).toFixed(1)},${Math.max(top, py(y)).toFixed(1)}`).join("L");
  for (const c of drawn) {
    const style = { stroke: colourOf(c.index), class: `curve${c.dashed ? " dashed" : ""}` };
    if (share > 0) svg.append(svgElement("path", { d: path(c.points), stroke: style.stroke, class: "curve raw" }));
    svg.append(svgElement("path", { d: path(c.shown), ...style }));
    if (c.shown.length < 40 || c.shown.length === 1)
      for (const [x, y] of c.shown) svg.append(svgElement("circle", { cx: px(x), cy: Math.max(top, py(y)), r: 2.4, fill: style.stroke }));
  }
  svg.addEventListener("pointermove", (event) => showNearest(event, svg, drawn, px, py, options));
  svg.addEventListener("pointerleave", () => (byId("tip").hidden = true));
  return figure;
}
function showNearest(event, svg, curves, px, py, options) {
  const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * 420, y = ((event.clientY - box.top) / box.height) * 250;
  let nearest = null;
  for (const c of curves)
    for (const p of c.shown) {
      const distance = Math.hypot(px(p[0]) - x, (py(p[1]) - y) / 3);
      if (!nearest || distance < nearest.distance) nearest = { distance, c, p };
    }
  if (!nearest) return;
  const tip = byId("tip");
  tip.textContent = `${nearest.c.name}${nearest.c.dashed ? ", validation" : ""}\n${(options.xText ?? axisText)(nearest.p[0])}: ${Number(nearest.p[1].toPrecision(5))}`;
  tip.hidden = false;
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 8)}px`;
}
function drawPlots() {
  const bits = byId("unit").value === "bits", scale = bits ? 1 / kNats : 1, entries = (run) => run.entries;
  const plots = byId("plots");
  plots.replaceChildren();
  const add = (title, note, curves, options) => { if (curves.length > 0) plots.append(plot(title, note, curves, options)); };
  const validation = series((run) => run.validations, "validation_loss", scale, true);
  const unit = bits ? "bits per target" : "nats per target";
  add("Loss", `${unit}; dashed: validation`, [...series(entries, "loss", scale), ...validation], { smooth: true });
  add("Validation loss", unit, validation.map((c) => ({ ...c, dashed: false })));
  add("Loss by position", `${unit}, at the newest validation; target's place in the document`, positionCurves(scale), { logX: true, xText: shortNumber, marks: [512, 2048, 8192, 32768, 131072] });
  add("Accuracy", "share of targets that were the most likely token", series(entries, "accuracy"), { smooth: true });
  add("Learning rate", "", series(entries, "learning_rate"), { fromZero: true });
  add("Gradient norm", "before clipping", series(entries, "gradient_norm"), { smooth: true });
  add("Speed", "targets a second", series(entries, "targets_per_second"), { fromZero: true });
  add("Memory", "GiB, most that tensors held", series(entries, "memory_bytes", 2 ** -30), { fromZero: true });
}
function positionCurves(scale) {
  return data.runs.map((run, i) => {
    const newest = run.validations.filter((v) => Array.isArray(v.by_position)).at(-1);
    const points = newest ? newest.by_position.map(([first, , loss]) => [first === 0 ? 256 : first, loss * scale]) : [];
    return { index: i, name: run.name, points };
  }).filter((c) => c.points.length > 0);
}

/// Samples are in the page, or have an address.
async function bytesOf(sample) {
  if (sample.base64) return Uint8Array.from(atob(sample.base64), (c) => c.charCodeAt(0));
  const answer = await fetch(sample.url);
  if (!answer.ok) throw new Error("it cannot be read any more");
  return new Uint8Array(await answer.arrayBuffer());
}
function sampleBox(sample) {
  const box = element("article", { class: "sample" }, element("h4", {}, `step ${sample.step}`));
  const url = sample.base64 ? `data:${sample.type};base64,${sample.base64}` : sample.url ?? "";
  if (sample.kind === "text") box.append(textOf(sample));
  else if (sample.kind === "image") box.append(element("img", { src: url, loading: "lazy", alt: `Picture generated at step ${sample.step}` }));
  else if (sample.kind === "audio") box.append(element("audio", { src: url, controls: "", preload: "metadata" }));
  else if (sample.kind === "music") box.append(musicPlayer(sample, url));
  else box.append(element("p", {}, `${sample.name} is not shown: too large, or of another kind.`));
  return box;
}
function textOf(sample) {
  const text = element("pre", { tabindex: "0" }, sample.text ?? "…");
  if (sample.url) bytesOf(sample).then((bytes) => { text.textContent = new TextDecoder().decode(bytes); }, (error) => { text.textContent = `${sample.name}: ${error.message}`; });
  return text;
}
function musicPlayer(sample, url) {
  const canvas = element("canvas", { role: "img", "aria-label": `Piano roll of step ${sample.step}` });
  const button = element("button", { type: "button", disabled: "" }, "Play"), about = element("span");
  const box = element("div", {}, canvas, element("p", {}, button, about, element("a", { href: url, download: sample.name }, "MIDI")));
  bytesOf(sample).then((bytes) => {
    const music = parseMidi(bytes), roll = new Roll(canvas);
    roll.notes = music.notes;
    roll.draw();
    about.textContent = ` ${music.notes.length} notes, ${duration(music.seconds)} `;
    button.disabled = false;
    button.addEventListener("click", () => play(button, roll));
  }).catch((error) => box.replaceChildren(element("p", {}, `${sample.name}: ${error.message}`)));
  return box;
}
function play(button, roll) {
  if (button.textContent === "Stop") return synth.silence();
  let begin = synth.play(roll.notes, () => { begin = null; button.textContent = "Play"; });
  button.textContent = "Stop";
  roll.follow(() => (begin === null ? null : synth.now - begin));
}

const sampleRows = new Map();  // folder of a run → {section, row, names of those shown}
function drawSamples() {
  const withSamples = data.runs.filter((run) => run.samples.length > 0);
  byId("samples-section").hidden = withSamples.length === 0;
  for (const [folder, {section}] of sampleRows)
    if (!withSamples.some((run) => run.folder === folder)) {
      section.remove();
      sampleRows.delete(folder);
    }
  withSamples.forEach(addSamples);
}
/// What is there already stays: it may be playing.
function addSamples(run) {
  if (!sampleRows.has(run.folder)) {
    const row = element("div", { class: "samples", tabindex: "0", role: "group", "aria-label": `Samples of ${run.name}` });
    const section = element("div", {}, element("h3", {}, run.name), row);
    byId("samples").append(section);
    sampleRows.set(run.folder, {section, row, names: new Set()});
  }
  const {row, names} = sampleRows.get(run.folder);
  const fresh = run.samples.filter((sample) => !names.has(sample.name));
  for (const sample of fresh) names.add(sample.name);
  row.append(...fresh.map(sampleBox));
}

function drawConfig() {
  const table = byId("config"), all = byId("all-keys").checked;
  const runs = data.runs.filter((run) => Object.keys(run.config).length > 0);
  byId("config-section").hidden = runs.length === 0 && data.runs.every((run) => !run.config_error);
  table.replaceChildren();
  if (runs.length > 0) table.append(element("tr", {}, element("th", {}, "key"), ...runs.map((run) => element("th", {}, run.name))));
  const keys = runs.length > 0 ? Object.keys(runs[0].config) : [];
  for (const key of keys) {
    const values = runs.map((run) => run.config[key] ?? ""), differs = new Set(values).size > 1;
    const changed = runs.some((run) => run.config_text.includes(`${key.split(".").at(-1)}:`));
    if (!(all || differs || (runs.length === 1 && changed))) continue;
    table.append(element("tr", {}, element("td", {}, key), ...values.map((v) => element("td", { class: differs ? "differs" : "" }, v))));
  }
  if (table.rows.length === 1) table.append(element("tr", {}, element("td", { colspan: runs.length + 1 }, "All keys have the same values.")));
  byId("config-errors").replaceChildren(...data.runs.filter((run) => run.config_error).map((run) => element("p", {}, `${run.name}: ${run.config_error}`)));
}
function drawEnvironments() {
  const table = byId("environments"), columns = ["run", "from step", "started", "version", "commit", "device", "host", "precision", "ranks", "command"];
  table.replaceChildren(element("tr", {}, ...columns.map((name) => element("th", {}, name))));
  for (const run of data.runs)
    for (const e of run.environments) {
      const command = Array.isArray(e.command) ? e.command.join(" ") : "";
      const values = [run.name, e.step, e.started, e.version, String(e.commit ?? "").slice(0, 14), e.device, e.host, e.precision, e.ranks ?? 1];
      table.append(element("tr", {}, ...values.map((v) => element("td", {}, String(v ?? ""))), element("td", { class: "wide" }, command)));
    }
}

/// To be called when `data` has changed.
export function draw() {
  document.title = data.runs.map((run) => run.name).join(", ") || "Training runs";
  data.runs.forEach(countTargets);
  runsTable();
  drawPlots();
  drawSamples();
  drawConfig();
  drawEnvironments();
}

for (const id of ["axis", "unit", "smoothing", "log"]) byId(id).addEventListener("input", drawPlots);
byId("all-keys").addEventListener("input", drawConfig);
const carried = byId("data");
if (carried) {
  Object.assign(data, JSON.parse(carried.textContent));
  byId("made").textContent = `${data.runs.length} ${data.runs.length === 1 ? "run" : "runs"}; made ${data.made} by perceiver ${data.version}`;
  draw();
}
