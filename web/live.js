// Training runs while they go on: which there are, and the report's page (report.js) of those chosen, kept up to date.
import {ask, element} from "./parts.js";
import {data, draw, validationText} from "./report.js";

const kPause = 2000;        // ms between two looks
const known = new Map();    // id → what has been read of a run
const chosen = new Set(location.hash.slice(1).split(",").filter(Boolean).map(decodeURIComponent));
let touched = chosen.size > 0, first = true;
const byId = (id) => document.getElementById(id);

function choose(id, yes) {
  touched = true;
  yes ? chosen.add(id) : chosen.delete(id);
  history.replaceState(null, "", "#" + [...chosen].map(encodeURIComponent).join(","));
  look();
}

/// Until somebody chooses, the runs that are training are shown, or else the one that did last.
function chooseForThem(runs) {
  if (touched || runs.length === 0) return;
  const running = runs.filter((run) => run.state === "running");
  for (const run of running) chosen.add(run.id);
  if (first && running.length === 0) chosen.add(runs.reduce((a, b) => (b.changed > a.changed ? b : a)).id);
  first = false;
}

const rows = new Map();     // id → {row, box, state, step, best}
function makeRow(id) {
  const box = element("input", {type: "checkbox", onchange: () => choose(id, box.checked)});
  const state = element("span"), step = element("td", {className: "number"}), best = element("td");
  const row = element("tr", {}, element("td", {}, element("label", {}, box, " " + id)), element("td", {}, state), step, best);
  return {row, box, state, step, best};
}

/// Rows stay where they are: the focus may be on one.
function drawList(runs) {
  const table = byId("all-runs");
  runs.forEach((run, i) => {
    if (!rows.has(run.id)) rows.set(run.id, makeRow(run.id));
    const {row, box, state, step, best} = rows.get(run.id);
    box.checked = chosen.has(run.id);
    state.className = `state ${run.state}`;
    state.textContent = run.state;
    step.textContent = run.steps ? `step ${run.step} / ${run.steps}` : `step ${run.step}`;
    best.textContent = run.best ? `${validationText(run.best)} at step ${run.best.step}` : "no validation yet";
    if (table.rows[i] !== row) table.insertBefore(row, table.rows[i] ?? null);
  });
  while (table.rows.length > runs.length) table.deleteRow(-1);
}

/// Tells whether there is anything new to draw.
function print(run) {
  return [run.mark, run.state, run.samples.at(-1)?.name, run.checkpoints.length, run.environments.length].join();
}

/// Adds what is new of a run; whether anything was.
async function readOn(id) {
  let changed = false;
  for (;;) {
    const before = known.get(id);
    const part = await ask(`/v1/runs/data?run=${encodeURIComponent(id)}&mark=${encodeURIComponent(before?.mark ?? "")}`);
    changed ||= !before || print(part) !== print(before);
    if (part.continues) for (const key of ["entries", "validations"]) part[key] = before[key].concat(part[key]);
    known.set(id, part);
    if (!part.more) return changed;
  }
}

async function update() {
  const {data: runs, folder} = await ask("/v1/runs");
  chooseForThem(runs);
  drawList(runs);
  const ids = runs.map((run) => run.id).filter((id) => chosen.has(id));
  let changed = false;
  for (const id of ids) changed = await readOn(id) || changed;
  const shown = ids.map((id) => known.get(id));
  changed ||= shown.length !== data.runs.length || shown.some((run, i) => run.folder !== data.runs[i].folder);
  data.runs = shown;
  if (changed) draw();
  byId("made").textContent = runs.length === 0 ? `There are no runs in ${folder} yet.` : `Those of ${folder}, as they are now`;
}

let looking = false, timer = 0;
async function look() {
  clearTimeout(timer);
  if (!looking && !document.hidden) {
    looking = true;
    try { await update(); } catch (error) { byId("made").textContent = error.message; }
    looking = false;
  }
  timer = setTimeout(look, kPause);
}

async function linkModels() {
  if ((await ask("/health")).models > 0) byId("made").before(element("a", {href: "/"}, "models"));
}

document.addEventListener("visibilitychange", look);
linkModels().catch(() => {});
look();
