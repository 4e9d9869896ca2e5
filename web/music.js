// Music: notes that are played or come from a MIDI file, and what the model makes of them.
import {download, dropZone, element, follow, fromBase64, jobControls, settings, toBase64} from "./parts.js";
import {Roll} from "./roll.js";
import {Synth} from "./synth.js";

const kLowest = 48, kHighest = 84;                     // C3 to C6
const kComputerKeys = "awsedftgyhujkolp;'";            // from middle C, as on a piano
const kBlack = [1, 3, 6, 8, 10];
const kDelay = 0.35;                                   // seconds from a note's arrival to its sound

export function musicPage(page, model) {
  const synth = new Synth();
  const down = new Map();     // pitch → when it was pressed
  let played = [], began = null, file = null, made = null, origin = null;
  const canvas = element("canvas", {className: "roll", id: "roll", role: "img"});
  canvas.setAttribute("aria-label", "Piano roll: given notes are grey, new ones blue");
  const roll = new Roll(canvas);
  const controls = settings(model, {temperature: 1, top_p: 0.98, max_tokens: 400});
  const seconds = element("input", {type: "number", min: 1, max: 600, value: 10, id: "seconds"});
  controls.panel.prepend(element("label", {}, "Seconds of the file", seconds, element("small", {}, "how much of it the model gets to hear")));
  const sound = element("input", {type: "checkbox", checked: true, id: "sound"});
  const listen = element("button", {onclick: playAll}, "Play all");
  const save = element("button", {disabled: true, id: "download", onclick: () => download(made, `${model.id}.mid`, "audio/midi")}, "Download MIDI");
  const clear = element("button", {onclick: reset}, "Clear");
  const job = jobControls("Continue", go);
  job.row.append(listen, save, clear, element("label", {className: "quiet"}, sound, " hear it as it comes"));
  const keyboard = element("div", {className: "keys"});
  buildKeys();

  page.append(
    element("h1", {}, "Continue a piece"),
    element("p", {className: "quiet"}, "Play a few notes, by mouse, touch or the keys A to K of your keyboard, or drop a MIDI file. Then let the model go on; or let it begin."),
    element("div", {className: "columns"},
      element("div", {}, dropZone("Drop a MIDI file here", ".mid,.midi,audio/midi", load), element("div", {className: "row"}), canvas,
        job.row, keyboard),
      controls.panel));

  // ---- the keyboard

  function buildKeys() {
    const inner = element("div");
    const whites = [];
    for (let pitch = kLowest; pitch <= kHighest; ++pitch) if (!kBlack.includes(pitch % 12)) whites.push(pitch);
    const share = 100 / whites.length;
    for (let pitch = kLowest; pitch <= kHighest; ++pitch) {
      const black = kBlack.includes(pitch % 12);
      const letter = kComputerKeys[pitch - 60]?.toUpperCase() ?? "";
      const key = element("button", {className: `key ${black ? "black" : "white"}`, tabIndex: pitch === 60 ? 0 : -1}, letter);
      const before = whites.filter((white) => white < pitch).length;
      key.style.left = `${black ? before * share - share * 0.3 : before * share}%`;
      key.style.width = `${black ? share * 0.6 : share}%`;
      key.dataset.pitch = pitch;
      key.setAttribute("aria-label", `${["C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "A sharp", "B"][pitch % 12]} ${Math.floor(pitch / 12) - 1}`);
      key.addEventListener("pointerdown", (event) => { event.preventDefault(); key.setPointerCapture(event.pointerId); press(pitch); });
      for (const end of ["pointerup", "pointercancel"]) key.addEventListener(end, () => release(pitch));
      key.addEventListener("keydown", (event) => {
        if (event.key === " " && !event.repeat) { event.preventDefault(); press(pitch); }
        const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
        if (step) inner.querySelector(`[data-pitch="${pitch + step}"]`)?.focus();
      });
      key.addEventListener("keyup", (event) => { if (event.key === " ") release(pitch); });
      inner.append(key);
    }
    keyboard.append(inner);
  }

  function show(pitch, on) {
    keyboard.querySelector(`[data-pitch="${pitch}"]`)?.classList.toggle("down", on);
  }

  function press(pitch) {
    if (down.has(pitch)) return;
    if (made || file) reset();
    synth.wake();
    began ??= performance.now();
    down.set(pitch, performance.now());
    synth.note(pitch, 80, synth.now, 0.5);
    show(pitch, true);
  }

  function release(pitch) {
    if (!down.has(pitch)) return;
    const start = (down.get(pitch) - began) / 1000, end = Math.max(start + 0.05, (performance.now() - began) / 1000);
    down.delete(pitch);
    show(pitch, false);
    const note = {start, end, pitch, velocity: 80};
    played.push(note);
    roll.add({...note, given: true});
  }

  const typing = (event) => event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName);
  const keyDown = (event) => {
    const at = kComputerKeys.indexOf(event.key.toLowerCase());
    if (!typing(event) && at >= 0 && !event.repeat) press(60 + at);
  };
  const keyUp = (event) => {
    const at = kComputerKeys.indexOf(event.key.toLowerCase());
    if (at >= 0) release(60 + at);
  };
  document.addEventListener("keydown", keyDown);
  document.addEventListener("keyup", keyUp);

  // ---- the model

  function reset() {
    job.stop();
    synth.silence();
    played = [];
    began = file = made = origin = null;
    save.disabled = true;
    roll.clear();
  }

  async function load(given) {
    reset();
    file = toBase64(new Uint8Array(await given.arrayBuffer()));
    job.say(`${given.name}: continue it, or change how much of it the model hears.`);
    job.run();
  }

  /// In time if it can be; if the model is slower than the music, all that follows waits.
  function hear(note) {
    if (!sound.checked) return;
    const context = synth.wake();
    origin ??= context.currentTime + kDelay - note.start;
    if (origin + note.start < context.currentTime + 0.02) origin = context.currentTime + kDelay - note.start;
    synth.note(note.pitch, note.velocity, origin + note.start, note.end - note.start);
    followHead();
  }

  function followHead() {
    roll.follow(() => origin === null ? null : synth.now - origin);
  }

  function playAll() {
    if (roll.notes.length === 0) return job.say("There is nothing to play yet.");
    origin = synth.play(roll.notes);
    followHead();
  }

  async function go({signal, say, onWait}) {
    const body = {model: model.id, file_type: "mid", ...controls.values()};
    if (file) Object.assign(body, {file, seconds: Math.max(1, Number(seconds.value) || 10)});
    else if (played.length > 0) body.notes = played;
    synth.silence();
    roll.clear();
    made = origin = null;
    save.disabled = true;
    let count = 0;
    await follow("/v1/generate", body, signal, (event) => {
      for (const note of event.beginning?.notes ?? []) roll.add({...note, given: true});
      for (const choice of event.choices) {
        for (const note of choice.notes ?? []) {
          ++count;
          roll.add(note);
          hear(note);
        }
        say(`${count} new notes`);
        if (!choice.file) continue;
        made = fromBase64(choice.file);
        save.disabled = false;
        say(`${count} new notes. Done.`);
      }
    }, onWait);
  }

  roll.draw();
  return () => {
    job.stop();
    synth.silence();
    roll.follow(() => null);
    document.removeEventListener("keydown", keyDown);
    document.removeEventListener("keyup", keyUp);
  };
}
