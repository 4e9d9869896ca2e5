// Standard MIDI files: parseMidi(bytes) gives {notes: [{pitch, velocity, start, end}], seconds}, times in seconds.
export function parseMidi(bytes) {
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
