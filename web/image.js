// A picture of which any part is known; the model makes the rest.
import {dropZone, element, follow, fromBase64, jobControls, settings, toBase64} from "./parts.js";

const kCount = 4;  // completions at once

export function imagePage(page, model) {
  const {width, height, channels} = model.image;
  const picture = new ImageData(width, height);
  const known = new Uint8Array(width * height);
  let anything = false;  // whether there is a picture at all
  let cursor = null;     // of the keyboard: {x, y}
  const canvas = element("canvas", {className: "canvas", id: "canvas", width, height, tabIndex: 0});
  canvas.style.aspectRatio = `${width} / ${height}`;
  canvas.setAttribute("aria-label", "The picture. Arrow keys move a brush, space paints with it.");
  const context = canvas.getContext("2d");
  const brush = element("input", {type: "range", min: 1, max: Math.max(2, Math.round(width / 3)), value: Math.max(1, Math.round(width / 8)), id: "brush"});
  const erases = element("select", {id: "mode"}, element("option", {value: "0"}, "to be made anew"), element("option", {value: "1"}, "to be kept"));
  const gallery = element("div", {className: "gallery", id: "gallery"});
  const controls = settings(model, {temperature: 1, top_p: 1});
  const job = jobControls("Complete", complete);
  const zone = dropZone("Drop a picture here", "image/*", load);

  page.append(
    element("h1", {}, "Complete a picture"),
    element("p", {className: "quiet"}, `Drop a picture, then paint over what the model shall invent; or let it make one from nothing. It sees ${width} × ${height} pixels.`),
    element("div", {className: "columns"},
      element("div", {},
        zone,
        element("div", {className: "easel"}, canvas, gallery),
        element("div", {className: "row"},
          element("label", {className: "quiet"}, "I paint what is ", erases), element("label", {className: "quiet"}, "Brush ", brush)),
        element("div", {className: "row", role: "group", "aria-label": "What is to be made"},
          ...[["Lower half", (x, y) => y < height / 2], ["Right half", (x) => x < width / 2],
            ["Middle", (x, y) => x < width / 4 || x >= width * 3 / 4 || y < height / 4 || y >= height * 3 / 4],
            ["All of it", () => false], ["Nothing", () => true]].map(([name, keep]) =>
            element("button", {onclick: () => { mark(keep); }}, name))),
        job.row),
      controls.panel));

  function load(file) {
    const address = URL.createObjectURL(file);
    const loaded = new Image();
    loaded.onload = () => {
      put(loaded, loaded.naturalWidth, loaded.naturalHeight);
      URL.revokeObjectURL(address);
      job.say("Now paint over what is to be made anew.");
    };
    loaded.onerror = () => job.say("That is no picture that this browser can read.", true);
    loaded.src = address;
  }

  /// The middle of a picture in the model's shape, as the model sees it.
  function put(source, w, h) {
    const scale = Math.max(width / w, height / h);
    const small = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
    small.imageSmoothingQuality = "high";
    small.drawImage(source, (width - w * scale) / 2, (height - h * scale) / 2, w * scale, h * scale);
    picture.data.set(small.getImageData(0, 0, width, height).data);
    anything = true;
    mark((x, y) => y < height / 2);
  }

  function mark(keep) {
    for (let y = 0; y < height; ++y)
      for (let x = 0; x < width; ++x) known[y * width + x] = anything && keep(x, y) ? 1 : 0;
    draw();
  }

  /// Unknown pixels are transparent: the chequered ground shows.
  function draw() {
    const shown = new ImageData(new Uint8ClampedArray(picture.data), width, height);
    for (let i = 0; i < known.length; ++i) shown.data[i * 4 + 3] = known[i] ? 255 : anything ? 40 : 0;
    context.putImageData(shown, 0, 0);
    if (cursor) {
      context.fillStyle = "#2457c5";
      context.fillRect(cursor.x, cursor.y, 1, 1);
    }
  }

  function paint(x, y) {
    if (!anything) return job.say("Drop a picture first; without one, everything is made.");
    const radius = Number(brush.value) / 2;
    for (let v = Math.floor(y - radius); v <= y + radius; ++v)
      for (let u = Math.floor(x - radius); u <= x + radius; ++u)
        if (u >= 0 && v >= 0 && u < width && v < height && Math.hypot(u - x, v - y) <= radius) known[v * width + u] = Number(erases.value);
    draw();
  }

  function paintAt(event) {
    const box = canvas.getBoundingClientRect();
    paint((event.clientX - box.left) / box.width * width - 0.5, (event.clientY - box.top) / box.height * height - 0.5);
  }
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); paintAt(event); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) paintAt(event); });
  canvas.addEventListener("blur", () => { cursor = null; draw(); });
  canvas.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0]}[event.key];
    if (!step) return;
    event.preventDefault();
    cursor ??= {x: Math.floor(width / 2), y: Math.floor(height / 2)};
    cursor = {x: Math.max(0, Math.min(width - 1, cursor.x + step[0])), y: Math.max(0, Math.min(height - 1, cursor.y + step[1]))};
    if (event.key === " ") paint(cursor.x, cursor.y);
    draw();
  });

  /// Pixels as the model has them.
  function pixels() {
    const bytes = new Uint8Array(width * height * channels);
    for (let i = 0; i < width * height; ++i) {
      const [r, g, b] = picture.data.subarray(i * 4, i * 4 + 3);
      if (channels === 3) bytes.set([r, g, b], i * 3);
      else bytes[i] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    }
    return bytes;
  }

  function toImageData(image) {
    const bytes = fromBase64(image.pixels), data = new ImageData(image.width, image.height);
    for (let i = 0; i < image.width * image.height; ++i) {
      const at = (c) => bytes[i * image.channels + (image.channels === 3 ? c : 0)];
      data.data.set([at(0), at(1), at(2), 255], i * 4);
    }
    return data;
  }

  async function complete({signal, say, onWait}) {
    const body = {model: model.id, n: kCount, file_type: "png", ...controls.values()};
    const some = known.some((value) => value);
    if (some && known.every((value) => value)) throw new Error("Nothing is left to be made: paint over a part first.");
    if (some) Object.assign(body, {image: {width, height, channels, pixels: toBase64(pixels())}, known: toBase64(known)});
    const views = Array.from({length: kCount}, () => {
      const view = element("canvas", {width, height});
      view.style.aspectRatio = `${width} / ${height}`;
      const save = element("button", {disabled: true}, "Save"), use = element("button", {disabled: true}, "Go on");
      const figure = element("figure", {}, view, element("figcaption", {}, use, save));
      return {view, save, use, figure, done: false};
    });
    gallery.prepend(...views.map((each) => each.figure));
    let most = 0;
    try {
      await follow("/v1/generate", body, signal, (event) => {
        for (const choice of event.choices) {
          const each = views[choice.index];
          most = Math.max(most, choice.tokens);
          say(`${most} tokens of each`);
          if (choice.image) each.view.getContext("2d").putImageData(toImageData(choice.image), 0, 0);
          if (!choice.file) continue;
          each.done = true;
          each.save.disabled = each.use.disabled = false;
          each.save.onclick = () => savePicture(choice.file);
          each.use.onclick = () => put(each.view, width, height);
        }
      }, onWait);
      say("Done.");
    } finally {
      for (const each of views) if (!each.done) each.figure.remove();
    }
  }

  function savePicture(file) {
    element("a", {href: `data:image/png;base64,${file}`, download: `${model.id}.png`}).click();
  }

  draw();
  return () => job.stop();
}
