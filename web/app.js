// Chooses the page of a model.
import {ask, element} from "./parts.js";
import {textPage} from "./text.js";
import {imagePage} from "./image.js";
import {musicPage} from "./music.js";
import {audioPage} from "./audio.js";

const kPages = {text: textPage, image: imagePage, music: musicPage, audio: audioPage};
let models = [];
let leave = () => {};

function chosen() {
  const name = decodeURIComponent(location.hash.slice(1));
  return models.find((model) => model.id === name) ?? models[0];
}

function size(count) {
  if (count >= 1e9) return `${(count / 1e9).toFixed(1)} billion`;
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} million` : `${Math.round(count / 1e3)} thousand`;
}

function show() {
  leave();
  const model = chosen();
  const page = document.getElementById("page");
  for (const link of document.querySelectorAll("nav a"))
    link.textContent === model.id ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  document.title = `${model.id} · perceiver`;
  document.getElementById("about").textContent =
    `${model.id}: ${size(model.parameters)} parameters, trained for ${model.step.toLocaleString("en")} steps, ` +
    `reads ${model.context_length.toLocaleString("en")} tokens, on ${model.device}.`;
  page.replaceChildren();
  const build = kPages[model.modality];
  if (build) leave = build(page, model) ?? (() => {});
  else page.append(element("p", {}, `There is no page for models of ${model.modality}; POST /v1/generate continues them.`));
}

async function watchQueue() {
  try {
    models = (await ask("/v1/models")).data;
    const model = chosen();
    document.getElementById("queue").textContent =
      model.queued > 0 ? `${model.queued} waiting` : model.active > 0 ? `${model.active} of ${model.slots} slots busy` : "";
  } catch { document.getElementById("queue").textContent = "server gone"; }
}

async function start() {
  let runs = false;
  try {
    models = (await ask("/v1/models")).data;
    runs = (await ask("/health")).runs;
  } catch (error) {
    document.getElementById("page").replaceChildren(element("p", {className: "error"}, error.message));
    return;
  }
  if (models.length === 0) return location.replace("/runs");
  document.getElementById("models").replaceChildren(
    ...models.map((model) => element("a", {href: `#${encodeURIComponent(model.id)}`, title: `a model of ${model.modality}`}, model.id)),
    ...(runs ? [element("a", {href: "/runs", title: "trainings that go on or are done"}, "training runs")] : []));
  addEventListener("hashchange", show);
  show();
  setInterval(() => { if (!document.hidden) watchQueue(); }, 2000);
}

start();
