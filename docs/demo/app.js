// The page: files in, frames to the worker, masks on the canvas, results out.
import { coco, decodePng, PALETTE, zip } from "./files.js";
import { nearest, requireSize } from "./tracker.js";

const $ = (id) => document.getElementById(id);
const canvas = $("view");
const context = canvas.getContext("2d");
const state = { about: null, source: null, first: null, mask: null, objects: new Map(), looked: false, results: [], running: false, busy: false };

// ---------------------------------------------------------------------------------------------------------- worker
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
};
worker.onerror = (event) => show(`worker: ${event.message || "could not be loaded; run sh docs/demo/vendor.sh first"}`, true);

function ask(type, message, transfer = []) {
  const id = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, type, ...message }, transfer);
  });
}

function show(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

/** Run an action of the user; errors are shown, not thrown. */
function action(fn) {
  return async (event) => {
    try {
      await fn(event);
    } catch (error) {
      show(error.message || String(error), true);
    }
    refresh();
  };
}

function refresh() {
  const prompted = state.mask !== null || state.objects.size > 0;
  $("track").disabled = !(state.about && state.source && prompted) || state.running;
  $("stop").disabled = !state.running;
  $("clear").disabled = state.running || !prompted;
  $("next").disabled = state.running || !state.objects.has(Number($("object").value));
  for (const name of ["png", "coco"]) $(name).disabled = state.running || !state.results.length;
}

// ----------------------------------------------------------------------------------------------------------- files
async function openModel(event) {
  state.about = null;
  const files = {};
  for (const file of event.target.files) {
    if (file.name === "model.json" || file.name.endsWith(".onnx")) files[file.name] = await file.arrayBuffer();
  }
  show("loading the model ...");
  const { about, threads } = await ask("open", { files }, Object.values(files));
  Object.assign(state, { about, looked: false });
  const [height, width] = about.frame.size;
  const prompts = about.graphs.prompt ? "clicks and boxes" : "boxes only";
  show(`${about.model}, ${about.precision}, ${width} x ${height}, ${threads} thread${threads > 1 ? "s" : ""}, ${prompts}`);
}

async function openVideo(event) {
  const files = [...event.target.files];
  if (!files.length) return;
  state.source?.close();
  state.source = null;
  const video = files.find((file) => file.type.startsWith("video/"));
  state.source = video ? await videoSource(video) : await imageSource(files);
  const { height, width, name, count } = state.source;
  [canvas.height, canvas.width] = [height, width];
  Object.assign(state, { mask: null, objects: new Map(), looked: false, results: [] });
  state.first = await createImageBitmap(await state.source.frame(0));
  draw(state.first);
  show(`${name}: ${count} frames of ${width} x ${height}`);
}

/** Frames of image files, in the natural order of their names. */
async function imageSource(files) {
  const images = files.filter((file) => file.type.startsWith("image/"));
  if (!images.length) throw new Error("video: got no video and no images");
  images.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const read = (i) => createImageBitmap(images[i], { colorSpaceConversion: "none" });
  const { height, width } = await read(0);
  const folder = images[0].webkitRelativePath.split("/").at(-2);
  return { name: folder || "frames", count: images.length, height, width, frame: read, file: (i) => images[i].name, close() {} };
}

/** Frames of a video file, by seeking to the middle of each. */
async function videoSource(file) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file) });
  await new Promise((resolve, reject) => {
    video.onloadeddata = resolve;
    video.onerror = () => reject(new Error(`${file.name}: this browser cannot decode it`));
  });
  const fps = await frameRate(video);
  async function frame(i) {
    const sought = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
    video.currentTime = (i + 0.5) / fps;
    await sought;
    return video;
  }
  return {
    name: file.name.replace(/\.[^.]*$/, ""),
    count: Math.max(Math.round(video.duration * fps), 1),
    height: video.videoHeight,
    width: video.videoWidth,
    frame,
    file: (i) => `${String(i).padStart(5, "0")}.png`,
    close: () => URL.revokeObjectURL(video.src),
  };
}

/** Frames per second, from the times of the first frames that are shown; the page's setting where they are unknown. */
async function frameRate(video) {
  const chosen = Number($("fps").value);
  if (chosen > 0 || !video.requestVideoFrameCallback) return chosen || 24;
  const times = [];
  await new Promise((resolve) => {
    const limit = setTimeout(resolve, 3000);
    const note = (_, { mediaTime }) => {
      times.push(mediaTime);
      if (times.length < 12 && !video.ended) video.requestVideoFrameCallback(note);
      else resolve(clearTimeout(limit));
    };
    video.requestVideoFrameCallback(note);
    video.onended = resolve;
    video.play().catch(resolve);
  });
  video.pause();
  const gaps = times.slice(1).map((time, i) => time - times[i]).filter((gap) => gap > 1e-3);
  return gaps.length ? Math.round(100 / Math.min(...gaps)) / 100 : 24;
}

async function openMask(event) {
  if (!state.source) throw new Error("mask: open a video first");
  const { labels, height, width } = await decodePng(await event.target.files[0].arrayBuffer());
  if (height !== state.source.height || width !== state.source.width) {
    throw new Error(`mask: got ${width} x ${height}, expected the video's ${state.source.width} x ${state.source.height}`);
  }
  if (!labels.some((id) => id > 0)) throw new Error("mask: has no objects; expected at least one id above 0");
  state.mask = labels;
  draw(state.first, firstMask());
  show(`mask: objects ${[...new Set(labels)].filter((id) => id).sort((a, b) => a - b).join(", ")}`);
}

/** Label map of the first frame: the largest logit of prompted objects, below the mask file; null without any. */
function firstMask() {
  if (!state.mask && !state.objects.size) return null;
  const { height, width } = state.source;
  const labels = new Int32Array(height * width);
  const best = new Float32Array(height * width);
  for (const [id, { logits }] of state.objects) {
    for (let i = 0; i < labels.length; i++) if (logits[i] > best[i]) [labels[i], best[i]] = [id, logits[i]];
  }
  if (state.mask) for (let i = 0; i < labels.length; i++) labels[i] = state.mask[i] || labels[i];
  return labels;
}

// --------------------------------------------------------------------------------------------------------- prompts
let corner = null;

function at(event) {
  const bounds = canvas.getBoundingClientRect();
  const clamp = (value, most) => Math.min(Math.max(value, 0), most);
  return [
    clamp(((event.clientX - bounds.left) / bounds.width) * canvas.width, canvas.width),
    clamp(((event.clientY - bounds.top) / bounds.height) * canvas.height, canvas.height),
  ];
}

function boxTo([x, y]) {
  const [a, b] = corner;
  return [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)].map(Math.round);
}

/** True if the pointer moved far enough for a box; else it is a click. */
const isBox = ([x0, y0, x1, y1]) => x1 - x0 > 2 && y1 - y0 > 2;

canvas.onpointerdown = (event) => {
  if (!state.source || state.running || state.busy || state.results.length) return;
  canvas.setPointerCapture(event.pointerId);
  corner = at(event);
};
canvas.onpointermove = (event) => {
  if (!corner) return;
  const [x0, y0, x1, y1] = boxTo(at(event));
  draw(state.first, firstMask());
  context.strokeStyle = "white";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
};
canvas.onpointerup = action(async (event) => {
  if (!corner) return;
  const [place, box] = [corner, boxTo(at(event))];
  corner = null;
  const id = Number($("object").value);
  state.busy = true; // one prediction at a time
  try {
    if (!(Number.isInteger(id) && id >= 1 && id <= 255)) throw new Error(`object: got ${$("object").value}, expected 1 to 255`);
    const before = state.objects.get(id) || { points: [], box: null, logits: null };
    if (isBox(box)) await promptObject(id, { ...before, box });
    else await promptObject(id, { ...before, points: [...before.points, [...place, event.button === 2 || event.shiftKey ? 0 : 1]] });
  } finally {
    state.busy = false;
    draw(state.first, firstMask());
  }
});
canvas.oncontextmenu = (event) => event.preventDefault();

/** Predict the mask of an object from all its clicks, its box and its mask so far; without a prompt head fill the box. */
async function promptObject(id, { points, box, logits }) {
  const { about, source, first } = state;
  const { height, width } = source;
  const what = points.length ? `${points.length} click${points.length > 1 ? "s" : ""}${box ? " and box" : ""}` : "box";
  if (about && !about.graphs.prompt && !box) throw new Error(`${about.model} was exported without a prompt head; drag a box`);
  if (about?.graphs.prompt) {
    show("predicting ...");
    if (!state.looked) {
      requireSize(about, height, width);
      const [rows, columns] = about.frame.size;
      const image = toInput(first, scratchOf(rows, columns));
      const pixels = toInput(first, scratchOf(height, width));
      await ask("look", { image, pixels, height, width }, [image.buffer, pixels.buffer]);
      state.looked = true;
    }
    const mask = logits && logits.map((x) => 1 / (1 + Math.exp(-x)));
    const found = await ask("prompt", { prompt: { points, box }, mask });
    state.objects.set(id, { points, box, logits: found.logits });
    show(`${what} of object ${id}, estimated IoU ${found.quality.toFixed(2)}`);
    return;
  }
  if (!box) throw new Error("click: open a model first");
  const filled = new Float32Array(height * width);
  const [x0, y0, x1, y1] = box;
  for (let y = y0; y < y1; y++) filled.fill(1, y * width + x0, y * width + x1);
  state.objects.set(id, { points, box, logits: filled });
  show(`box of object ${id}`);
}

// --------------------------------------------------------------------------------------------------------- drawing
function draw(image, labels = null) {
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (!labels) return;
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < labels.length; i++) {
    if (!labels[i]) continue;
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = (pixels.data[4 * i + c] + PALETTE[3 * (labels[i] & 255) + c]) >> 1;
  }
  context.putImageData(pixels, 0, 0);
}

/** Canvas of a size, to read pixels from. */
function scratchOf(rows, columns) {
  const scratch = new OffscreenCanvas(columns, rows).getContext("2d", { willReadFrequently: true });
  scratch.imageSmoothingQuality = "high";
  return scratch;
}

/** Image as (3, H, W) floats in [0, 1] at the size of a scratch canvas. */
function toInput(image, scratch) {
  const { height, width } = scratch.canvas;
  scratch.drawImage(image, 0, 0, width, height);
  const { data } = scratch.getImageData(0, 0, width, height);
  const area = height * width;
  const input = new Float32Array(3 * area);
  for (let i = 0; i < area; i++) for (let c = 0; c < 3; c++) input[c * area + i] = data[4 * i + c] / 255;
  return input;
}

// -------------------------------------------------------------------------------------------------------- tracking
async function track() {
  const { source, about } = state;
  requireSize(about, source.height, source.width);
  const [rows, columns] = about.frame.size;
  const scratch = scratchOf(rows, columns);
  Object.assign(state, { results: [], running: true });
  refresh();
  try {
    await ask("reset");
    let seconds = 0;
    for (let i = 0; i < source.count && state.running; i++) {
      const image = await source.frame(i);
      if (image.width !== source.width && image.videoWidth !== source.width) throw new Error(`${source.file(i)}: another size than the first frame`);
      const input = toInput(image, scratch);
      const mask = i ? null : nearest(firstMask(), source.height, source.width, rows, columns);
      const found = await ask("frame", { image: input, mask, height: source.height, width: source.width }, [input.buffer]);
      draw(image, found.labels);
      state.results.push({ name: source.file(i), height: source.height, width: source.width, objects: found.objects, png: found.png });
      if (i) seconds += found.seconds;
      const speed = i ? `, ${(i / seconds).toFixed(2)} frames per second` : "";
      show(`frame ${i + 1} of ${source.count}${speed}`);
    }
  } finally {
    state.running = false;
  }
  $("status").dataset.done = state.results.length;
}

// --------------------------------------------------------------------------------------------------------- results
function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

$("model").onchange = action(openModel);
$("video").onchange = action(openVideo);
$("images").onchange = action(openVideo);
$("mask").onchange = action(openMask);
$("track").onclick = action(track);
$("stop").onclick = () => (state.running = false);
$("next").onclick = action(() => {
  $("object").value = Math.min(Math.max(0, ...state.objects.keys()) + 1, 255);
  show(`object ${$("object").value}: click it or drag a box`);
});
$("object").onchange = refresh;
$("clear").onclick = action(() => {
  Object.assign(state, { mask: null, objects: new Map(), results: [] });
  $("mask").value = "";
  $("object").value = 1;
  draw(state.first);
  show("click an object, drag a box, or open a mask");
});
$("png").onclick = () => {
  const { name } = state.source;
  save(`${name}.zip`, zip(state.results.map((result) => [`Annotations/${name}/${stem(result.name)}.png`, result.png])), "application/zip");
};
$("coco").onclick = () => save("instances.json", JSON.stringify(coco(state.source.name, state.results)), "application/json");
refresh();
