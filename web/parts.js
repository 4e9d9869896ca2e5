// What all pages use: elements, settings, files, and the server's answers.

/// element("p", {className: "quiet"}, "text", other) makes an element.
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/// A request that answers with one JSON object. Throws an Error with the server's sentence.
export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

async function send(path, body, signal) {
  const options = body === undefined
    ? {signal}
    : {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), signal};
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try { message = (await response.json()).error.message; } catch { /* not JSON: keep the status */ }
  throw new Error(message);
}

/// Calls `onEvent` with each JSON event of a stream, and `onWait` with the number of those before us.
export async function follow(path, body, signal, onEvent, onWait = () => {}) {
  const response = await send(path, {...body, stream: true}, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith(": queue ")) onWait(Number(block.slice(8)));
      if (!block.startsWith("data: ")) continue;
      const data = block.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      onEvent(event);
    }
  }
}

const kSettings = {
  temperature: {label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0 is always the likeliest, 1 as the model believes"},
  top_p: {label: "Top-p", min: 0.05, max: 1, step: 0.05, hint: "the likeliest tokens that reach this probability"},
  max_tokens: {label: "Length", min: 16, max: 2000, step: 16, hint: "new tokens at most"},
};

/// Sliders; returns {panel, values()}. `wanted`: {temperature: 1, …}, where they start unless the model says otherwise.
export function settings(model, wanted, limits = {}) {
  const inputs = {};
  const panel = element("div", {className: "panel settings"});
  for (const [name, usual] of Object.entries(wanted)) {
    const about = {...kSettings[name], ...limits[name]};
    const start = Math.min(about.max, Math.max(about.min, model.sampling[name] ?? usual));
    const value = element("span", {className: "value"}, String(start));
    const input = element("input", {type: "range", min: about.min, max: about.max, step: about.step, value: start,
      id: `setting-${name}`, oninput: () => { value.textContent = input.value; }});
    inputs[name] = () => Number(input.value);
    panel.append(element("label", {}, value, about.label, input, element("small", {}, about.hint)));
  }
  const seed = element("input", {type: "text", inputMode: "numeric", placeholder: "new each time", pattern: "[0-9]*", id: "setting-seed"});
  panel.append(element("label", {}, "Seed", seed, element("small", {}, "the same seed gives the same result")));
  const values = () => {
    const all = Object.fromEntries(Object.entries(inputs).map(([name, read]) => [name, read()]));
    if (/^[0-9]{1,15}$/.test(seed.value.trim())) all.seed = Number(seed.value.trim());
    return all;
  };
  return {panel, values};
}

/// A place to drop a file on or choose one; calls `onFile(File)`.
export function dropZone(text, accept, onFile) {
  const input = element("input", {type: "file", accept, id: "file", onchange: () => input.files[0] && onFile(input.files[0])});
  const zone = element("div", {className: "drop"}, text + " or ", input, element("label", {htmlFor: "file"}, "choose a file"));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) onFile(event.dataTransfer.files[0]);
  });
  return zone;
}

/// Runs one job at a time: a start button, a stop button, a line that says what happens.
export function jobControls(startText, work) {
  let running = null;
  const status = element("span", {className: "quiet", role: "status"});
  const say = (text, bad = false) => { status.textContent = text; status.className = bad ? "error" : "quiet"; };
  const start = element("button", {className: "primary", id: "start", onclick: () => run()}, startText);
  const stop = element("button", {id: "stop", disabled: true, onclick: () => running?.abort()}, "Stop");
  const onWait = (ahead) => say(ahead > 0 ? `Waiting: ${ahead} before you` : "Reading the beginning …");
  async function run(...given) {
    running?.abort();
    const mine = running = new AbortController();
    stop.disabled = false;
    say("Starting …");
    try {
      await work({signal: mine.signal, say, onWait}, ...given);
    } catch (error) {
      if (error.name !== "AbortError") say(error.message, true);
      else if (running === mine) say("Stopped.");
    }
    if (running !== mine) return;
    running = null;
    stop.disabled = true;
  }
  return {row: element("div", {className: "row"}, start, stop, status), run, say, stop: () => running?.abort()};
}

export function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

export function download(bytes, name, type) {
  const link = element("a", {href: URL.createObjectURL(new Blob([bytes], {type})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
