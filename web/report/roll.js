// Notes over time: a piano roll on a canvas.

const kGiven = "#8a94a6", kMade = "#2457c5", kMadeDark = "#7aa2ff";

export class Roll {
  constructor(canvas) {
    this.canvas = canvas;
    this.notes = [];
    this.head = null;  // seconds
    this.ticking = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /// `note`: {start, end, pitch, velocity, given}.
  add(note) {
    this.notes.push(note);
    this.draw();
  }

  clear() {
    this.notes = [];
    this.follow(() => null);
  }

  /// Moves a line along with `clock()`, the seconds that have been played, until it is past the end or null.
  follow(clock) {
    cancelAnimationFrame(this.ticking);
    const tick = () => {
      const at = clock(), last = this.notes.reduce((most, note) => Math.max(most, note.end), 0);
      this.head = at === null || at > last + 0.5 ? null : Math.max(0, at);
      this.draw();
      if (this.head !== null) this.ticking = requestAnimationFrame(tick);
    };
    tick();
  }

  draw() {
    const {canvas} = this, scale = devicePixelRatio || 1;
    const width = canvas.width = Math.max(1, canvas.clientWidth * scale), height = canvas.height = Math.max(1, canvas.clientHeight * scale);
    const context = canvas.getContext("2d");
    const end = Math.max(8, ...this.notes.map((note) => note.end)) * 1.02;
    const low = Math.min(48, ...this.notes.map((note) => note.pitch)) - 2, high = Math.max(76, ...this.notes.map((note) => note.pitch)) + 2;
    const x = (seconds) => seconds / end * width, y = (pitch) => height - (pitch - low + 1) / (high - low + 1) * height;
    const row = height / (high - low + 1), dark = matchMedia("(prefers-color-scheme: dark)").matches;
    context.fillStyle = dark ? "#ffffff0c" : "#0000000a";
    for (let pitch = low; pitch <= high; ++pitch) if ([1, 3, 6, 8, 10].includes(pitch % 12)) context.fillRect(0, y(pitch), width, row);
    const line = dark ? "#ffffff22" : "#00000018", text = dark ? "#ffffff90" : "#00000090";
    const step = end > 120 ? 30 : end > 40 ? 10 : end > 16 ? 5 : 1;
    context.font = `${10 * scale}px sans-serif`;
    for (let t = step; t < end; t += step) {
      context.fillStyle = line;
      context.fillRect(x(t), 0, 1, height);
      context.fillStyle = text;
      context.fillText(`${t} s`, x(t) + 3, height - 4);
    }
    for (const note of this.notes) {
      context.globalAlpha = 0.45 + 0.55 * note.velocity / 127;
      context.fillStyle = note.given ? kGiven : dark ? kMadeDark : kMade;
      context.fillRect(x(note.start), y(note.pitch) + row * 0.08, Math.max(2, x(note.end) - x(note.start) - 1), Math.max(2, row * 0.84));
    }
    context.globalAlpha = 1;
    if (this.head === null) return;
    context.fillStyle = "#d1495b";
    context.fillRect(x(this.head), 0, 2 * scale, height);
  }
}
