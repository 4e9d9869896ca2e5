// A plain piano-like sound, note by note, by Web Audio.

export class Synth {
  constructor() {
    this.context = null;
    this.playing = new Set();
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

  silence() {
    for (const tone of this.playing) try { tone.stop(); } catch { /* it has not begun */ }
    this.playing.clear();
  }
}
