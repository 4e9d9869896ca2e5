// A plain piano-like sound, note by note, by Web Audio.

export class Synth {
  constructor() {
    this.context = null;
    this.playing = new Set();
    this.timer = 0;
    this.onEnd = null;
  }

  /// Browsers let sound begin only after a click or a key.
  wake() {
    this.context ??= new AudioContext();
    if (!this.out) {
      this.out = this.context.createDynamicsCompressor();
      this.out.connect(this.context.destination);
    }
    if (this.context.state === "suspended") this.context.resume();
    return this.context;
  }

  get now() { return this.context?.currentTime ?? 0; }

  /// `start` in seconds of the context's clock.
  note(pitch, velocity, start, seconds) {
    const context = this.wake();
    const frequency = 440 * 2 ** ((pitch - 69) / 12), level = 0.22 * (velocity / 127) ** 1.5;
    const gain = context.createGain();
    gain.gain.setValueAtTime(0, start);
    gain.gain.linearRampToValueAtTime(level, start + 0.006);
    gain.gain.setTargetAtTime(level * 0.25, start + 0.006, 0.5 + 20 / (pitch + 1));
    gain.gain.setTargetAtTime(0, start + seconds, 0.06);
    gain.connect(this.out);
    for (const [type, factor] of [["triangle", 1], ["sine", 2]]) {
      if (frequency * factor > context.sampleRate * 0.45) continue;
      const tone = context.createOscillator();
      tone.type = type;
      tone.frequency.value = frequency * factor;
      tone.connect(gain);
      tone.start(start);
      tone.stop(start + seconds + 0.5);
      this.playing.add(tone);
      tone.onended = () => { this.playing.delete(tone); if (type === "triangle") gain.disconnect(); };
    }
  }

  /// Plays notes, {start, end, pitch, velocity}, instead of what is sounding. Returns when they begin, by the
  /// context's clock; calls `onEnd` when they are over or silenced.
  play(notes, onEnd = () => {}) {
    this.silence();
    const begin = this.wake().currentTime + 0.1, last = notes.reduce((most, note) => Math.max(most, note.end), 0);
    const sorted = [...notes].sort((a, b) => a.start - b.start);
    let next = 0;
    const schedule = () => {
      const now = this.now - begin;
      for (; next < sorted.length && sorted[next].start < now + 1; ++next) {
        const {pitch, velocity, start, end} = sorted[next];
        this.note(pitch, velocity, begin + start, Math.max(0.08, end - start));
      }
      if (next === sorted.length && now > last + 0.5) return this.silence();
      this.timer = setTimeout(schedule, 200);
    };
    this.onEnd = onEnd;
    schedule();
    return begin;
  }

  silence() {
    clearTimeout(this.timer);
    for (const tone of this.playing) try { tone.stop(); } catch { /* it has not begun */ }
    this.playing.clear();
    const ended = this.onEnd;
    this.onEnd = null;
    ended?.();
  }
}
