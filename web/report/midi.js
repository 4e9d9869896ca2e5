// Standard MIDI files: parseMidi(bytes) gives {notes: [{pitch, velocity, start, end}], seconds}, times in seconds.
// playNotes(notes, onend) plays them with Web Audio and returns a function that stops; drawRoll draws them.
"use strict";
function parseMidi(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = (p) => String.fromCharCode(...bytes.subarray(p, p + 4));
  if (bytes.length < 14 || tag(0) !== "MThd") throw new Error("not a MIDI file");
  const division = view.getUint16(12);
  const ticks = division & 0x8000 ? 480 : division;
  const events = [];
  let at = 8 + view.getUint32(4);
  while (at + 8 <= bytes.length) {
    const end = Math.min(bytes.length, at + 8 + view.getUint32(at + 4));
    if (tag(at) === "MTrk") readTrack(bytes, at + 8, end, events);
    at = end;
  }
  events.sort((a, b) => a.tick - b.tick || a.order - b.order);
  return timeNotes(events, ticks);
}
function readTrack(bytes, at, end, events) {
  let tick = 0, status = 0;
  const number = () => { let n = 0, b; do { b = bytes[at++]; n = (n << 7) | (b & 127); } while (b & 128 && at < end); return n; };
  while (at < end) {
    tick += number();
    if (bytes[at] & 128) status = bytes[at++];
    if (status === 0xff) {
      const type = bytes[at++], length = number();
      if (type === 0x51 && length === 3)
        events.push({ tick, order: -1, tempo: (bytes[at] << 16) | (bytes[at + 1] << 8) | bytes[at + 2] });
      at += length;
    } else if (status === 0xf0 || status === 0xf7) {
      at += number();
    } else {
      const kind = status >> 4, a = bytes[at++], b = kind === 12 || kind === 13 ? 0 : bytes[at++];
      if (kind === 9 || kind === 8) events.push({ tick, order: events.length, pitch: a, velocity: kind === 9 ? b : 0 });
    }
  }
}
function timeNotes(events, ticks) {
  const notes = [], open = new Map();
  let seconds = 0, last = 0, tempo = 500000;
  for (const e of events) {
    seconds += ((e.tick - last) / ticks) * (tempo / 1e6);
    last = e.tick;
    if (e.tempo) { tempo = e.tempo; continue; }
    const note = open.get(e.pitch);
    if (note) { note.end = seconds; open.delete(e.pitch); }
    if (e.velocity > 0) {
      const started = { pitch: e.pitch, velocity: e.velocity, start: seconds, end: seconds };
      notes.push(started);
      open.set(e.pitch, started);
    }
  }
  for (const note of open.values()) note.end = seconds;
  return { notes, seconds: notes.reduce((most, n) => Math.max(most, n.end), 0) };
}
function playNotes(notes, onend) {
  const audio = new AudioContext(), out = audio.createDynamicsCompressor(), begin = audio.currentTime + 0.1;
  out.connect(audio.destination);
  let next = 0, timer = 0;
  const sorted = [...notes].sort((a, b) => a.start - b.start);
  const schedule = () => {
    const now = audio.currentTime - begin;
    for (; next < sorted.length && sorted[next].start < now + 1; ++next) playNote(audio, out, begin, sorted[next]);
    if (next === sorted.length && now > sorted.reduce((m, n) => Math.max(m, n.end), 0) + 0.5) return stop();
    timer = setTimeout(schedule, 200);
  };
  const stop = () => { clearTimeout(timer); audio.close(); onend(); };
  schedule();
  return stop;
}
function playNote(audio, out, begin, note) {
  const tone = audio.createOscillator(), gain = audio.createGain(), at = begin + note.start;
  const end = begin + Math.max(note.end, note.start + 0.08), level = 0.22 * (note.velocity / 127);
  tone.type = "triangle";
  tone.frequency.value = 440 * 2 ** ((note.pitch - 69) / 12);
  gain.gain.setValueAtTime(0, at);
  gain.gain.linearRampToValueAtTime(level, at + 0.008);
  gain.gain.exponentialRampToValueAtTime(Math.max(1e-4, level * 0.35), end);
  gain.gain.linearRampToValueAtTime(0, end + 0.06);
  tone.connect(gain).connect(out);
  tone.start(at);
  tone.stop(end + 0.1);
}
function drawRoll(canvas, notes, seconds) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth || 320, height = canvas.clientHeight || 150;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d"), pitches = notes.map((n) => n.pitch);
  const low = Math.min(60, ...pitches) - 2, high = Math.max(72, ...pitches) + 2;
  context.scale(scale, scale);
  for (const n of notes) {
    const x = (n.start / seconds) * width, y = height - ((n.pitch - low + 1) / (high - low + 1)) * height;
    context.fillStyle = `hsl(212 80% ${70 - 35 * (n.velocity / 127)}%)`;
    context.fillRect(x, y, Math.max(1.5, ((n.end - n.start) / seconds) * width), Math.max(1.5, height / (high - low + 1) - 0.5));
  }
}
