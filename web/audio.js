// Sound: the first seconds of a file, and how the model goes on.
import {download, dropZone, element, follow, fromBase64, jobControls, settings} from "./parts.js";

export function audioPage(page, model) {
  const rate = model.sample_rate;
  let given = new Float32Array(0), whole = new Float32Array(0), start = 0, made = null, context = null, next = 0;
  let sources = [];
  const canvas = element("canvas", {className: "roll", id: "wave", role: "img"});
  canvas.setAttribute("aria-label", "The sound: what was given is grey, what is new blue");
  const controls = settings(model, {temperature: 1, top_p: 0.98, max_tokens: Math.min(rate, 4000)}, {max_tokens: {label: "New samples", min: 500, max: Math.min(16000, 4 * rate), step: 500, hint: `${rate} are a second`}});
  const seconds = element("input", {type: "number", min: 0, max: 60, step: 0.1, value: 1, id: "seconds"});
  controls.panel.prepend(element("label", {}, "Seconds of the file", seconds, element("small", {}, "how much of it the model gets to hear")));
  const listen = element("button", {onclick: () => play(whole)}, "Play all");
  const save = element("button", {disabled: true, id: "download", onclick: () => download(made, `${model.id}.wav`, "audio/wav")}, "Download WAV");
  const job = jobControls("Continue", go);
  job.row.append(listen, save);

  page.append(
    element("h1", {}, "Continue a sound"),
    element("p", {className: "quiet"}, `Drop a sound file; the model hears its first seconds, ${rate} samples of each, and goes on. Without a file it begins by itself.`),
    element("div", {className: "columns"},
      element("div", {}, dropZone("Drop a sound file here", "audio/*", load), element("div", {className: "row"}), canvas, job.row),
      controls.panel));

  function wake() {
    context ??= new AudioContext();
    if (context.state === "suspended") context.resume();
    return context;
  }

  async function load(file) {
    try {
      const decoded = await wake().decodeAudioData(await file.arrayBuffer());
      const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(decoded.duration * rate)), rate);
      const source = offline.createBufferSource();
      source.buffer = decoded;
      source.connect(offline.destination);
      source.start();
      given = (await offline.startRendering()).getChannelData(0);
    } catch {
      return job.say("That is no sound that this browser can read.", true);
    }
    whole = given;
    start = given.length;
    draw();
    job.say(`${file.name}: ${(given.length / rate).toFixed(1)} seconds`);
  }

  function play(samples) {
    silence();
    if (samples.length > 0) later(samples, wake().currentTime + 0.05);
  }

  function later(samples, time) {
    const buffer = wake().createBuffer(1, samples.length, rate);
    buffer.copyToChannel(samples, 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.start(time);
    sources.push(source);
    next = time + samples.length / rate;
  }

  function silence() {
    for (const source of sources) try { source.stop(); } catch { /* it has not begun */ }
    sources = [];
  }

  function draw() {
    const scale = devicePixelRatio || 1;
    const width = canvas.width = Math.max(1, canvas.clientWidth * scale), height = canvas.height = Math.max(1, canvas.clientHeight * scale);
    const ink = canvas.getContext("2d");
    ink.fillStyle = "#88888855";
    ink.fillRect(0, height / 2, width, 1);
    for (let x = 0; x < width && whole.length > 0; ++x) {
      const from = Math.floor(x / width * whole.length), to = Math.max(from + 1, Math.floor((x + 1) / width * whole.length));
      let low = 0, high = 0;
      for (let i = from; i < to; ++i) { low = Math.min(low, whole[i]); high = Math.max(high, whole[i]); }
      ink.fillStyle = from < start ? "#8a94a6" : "#2457c5";
      ink.fillRect(x, (1 - high) * height / 2, 1, Math.max(1, (high - low) * height / 2));
    }
  }

  async function go({signal, say, onWait}) {
    const beginning = given.slice(0, Math.round(Math.max(0, Number(seconds.value) || 0) * rate));
    const body = {model: model.id, file_type: "wav", ...controls.values()};
    if (beginning.length > 0) body.sound = {rate, samples: Array.from(beginning, (value) => Math.round(Math.max(-1, Math.min(1, value)) * 1e5) / 1e5)};
    silence();
    whole = beginning;
    start = beginning.length;
    made = null;
    save.disabled = true;
    draw();
    await follow("/v1/generate", body, signal, (event) => {
      for (const choice of event.choices) {
        if (choice.sound) {
          const grown = new Float32Array(whole.length + choice.sound.samples.length);
          grown.set(whole);
          grown.set(choice.sound.samples, whole.length);
          whole = grown;
          draw();
        }
        say(`${((whole.length - start) / rate).toFixed(2)} new seconds`);
        if (!choice.file) continue;
        made = fromBase64(choice.file);
        save.disabled = false;
        play(whole);
      }
    }, onWait);
  }

  const observer = new ResizeObserver(draw);
  observer.observe(canvas);
  return () => { job.stop(); silence(); observer.disconnect(); };
}
