// Tracker of the objects in one video that runs exported graphs: the same loop as cutie_geo.onnx.OnnxTracker.
import { roundEven } from "./prompts.js";
import { ABSENT, chooseWindows, crop, insides, maskWindows, paste, STRIDE } from "./windows.js";

const FORMAT = "cutie_geo.onnx";
const VERSION = 2;
const OPSET = 20;
const GRAPHS = ["encode", "read", "decode", "combine", "embed", "memorise"];
const PROMPT_GRAPHS = ["prompt", "look"];

/** Check model.json and the graphs, given as {name: ArrayBuffer}, and open a session for each graph. */
export async function openModel(ort, files, options) {
  if (!files["model.json"]) throw new Error("model folder: model.json is missing; expected a folder written by cutie-geo export onnx");
  let about;
  try {
    about = JSON.parse(new TextDecoder().decode(files["model.json"]));
  } catch (error) {
    throw new Error(`model.json: not readable (${error.message}); export the model again`);
  }
  if (about.format !== FORMAT) throw new Error(`model.json: got format ${about.format}, expected ${FORMAT}`);
  for (const [name, expected] of [["version", VERSION], ["opset", OPSET]]) {
    if (about[name] !== expected) throw new Error(`model.json: ${name}: got ${about[name]}, expected ${expected}; export the model again`);
  }
  const sessions = {};
  for (const name of [...GRAPHS, ...PROMPT_GRAPHS.filter((name) => about.graphs[name])]) {
    const content = files[`${name}.onnx`];
    if (!content || !about.graphs[name]) throw new Error(`${name}.onnx: missing; expected the graph that model.json lists`);
    const found = await sha256(content);
    if (found !== null && found !== about.graphs[name].sha256) {
      throw new Error(`${name}.onnx: the digest is not that of model.json; copy the folder or export the model again`);
    }
    sessions[name] = await ort.InferenceSession.create(new Uint8Array(content), options);
  }
  return { about, sessions };
}

/** Return a hexadecimal digest; null on pages without https or localhost, where browsers offer none. */
async function sha256(content) {
  if (!globalThis.crypto?.subtle) return null;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Memory tokens of the objects that were added on one frame: permanent frames, then a ring of recent ones. */
class Bank {
  constructor(ids, about) {
    const { capacity, permanent_frames, max_mem_frames, tokens_per_frame } = about.memory;
    this.ids = ids;
    this.tokens = tokens_per_frame;
    this.capacity = capacity;
    this.permanentFrames = permanent_frames;
    this.recentFrames = max_mem_frames - 1;
    this.permanent = this.recent = 0;
    this.width = about.graphs.encode.outputs.keys.shape[1];
    this.channels = about.graphs.memorise.outputs.value.shape[2];
    this.keys = new Float32Array(capacity * this.width);
    this.value = new Float32Array(ids.length * capacity * this.channels);
    this.filled = new Uint8Array(capacity);
  }

  /** Store one frame; `first` is the place of this bank's first object in `value` (objects, tokens, channels). */
  write(keys, value, first) {
    let place = this.permanent;
    if (this.permanent) {
      if (!this.recentFrames) return;
      place = this.permanentFrames + (this.recent++ % this.recentFrames);
    } else {
      this.permanent++;
    }
    const start = place * this.tokens;
    this.keys.set(keys, start * this.width);
    this.filled.fill(1, start, start + this.tokens);
    const block = this.tokens * this.channels;
    for (let n = 0; n < this.ids.length; n++) {
      const own = value.subarray((first + n) * block, (first + n + 1) * block);
      this.value.set(own, (n * this.capacity + start) * this.channels);
    }
  }
}

export class Tracker {
  constructor(ort, model) {
    this.ort = ort;
    this.sessions = model.sessions;
    this.about = model.about;
    this.size = model.about.frame.size;
    this.padded = model.about.frame.padded;
    this.reset();
  }

  reset() {
    this.ids = [];
    this.frame = -1;
    this.memoryFrame = 0;
    this.banks = [];
    this.mask = this.sensory = this.summary = null;
  }

  /**
   * Segment the next frame.
   * @param image Float32Array (3, H, W) in [0, 1] at the graphs' size.
   * @param labels Int32Array (H, W) of new or tracked objects at the graphs' size, or null.
   * @returns probabilities (1 + N, H, W) at the padded size.
   */
  async step(image, labels = null) {
    const [height, width] = this.padded;
    const area = height * width;
    const given = labels ? [...new Set(labels)].filter((id) => id > 0).sort((a, b) => a - b) : [];
    const wanted = new Set([...this.ids, ...given]).size;
    if (wanted > this.about.memory.max_objects) {
      throw new Error(`mask: got ${wanted} objects in all, expected at most ${this.about.memory.max_objects}`);
    }
    if (!this.ids.length && !given.length) {
      this.frame++;
      return new Float32Array(area).fill(1);
    }
    const features = await this.encode(image);
    const complete = !this.ids.length || (given.length === this.ids.length && given.every((id) => this.ids.includes(id)));
    let probs = null;
    let sensory = this.sensory;
    if (!given.length || !complete) {
      const predicted = await this.predict(features);
      probs = predicted.probs;
      if (this.sensoryFrames().has(this.frame + 1 - this.memoryFrame)) sensory = predicted.sensory;
    }
    if (given.length) probs = this.accept(probs, labels, given);
    const due = given.length > 0 || this.frame + 1 - this.memoryFrame >= this.about.memory.mem_every;
    this.frame++;
    this.mask = probs.slice(area);
    this.sensory = sensory;
    if (due) {
      await this.memorise(image, features);
      this.memoryFrame = this.frame;
    }
    return probs;
  }

  /** Run a graph. */
  run(name, feed) {
    return this.sessions[name].run(feed);
  }

  /** Features of a frame that do not depend on memory. */
  encode(image) {
    return this.run("encode", { image: new this.ort.Tensor("float32", image, [1, 3, ...this.size]) });
  }

  tensor(data, shape) {
    return new this.ort.Tensor("float32", data, shape);
  }

  async predict(features) {
    const shapes = this.about.graphs.read.inputs;
    const state = (name, data, first, count) => {
      const shape = [count, ...shapes[name].shape.slice(1)];
      const size = shape.slice(1).reduce((a, b) => a * b);
      return this.tensor(data.subarray(first * size, (first + count) * size), shape);
    };
    let readout = new Float32Array(0);
    let coarse = new Float32Array(0);
    let first = 0;
    for (const bank of this.banks) {
      const count = bank.ids.length;
      const found = await this.run("read", {
        pixel: features.pixel, query: features.query,
        keys: this.tensor(bank.keys, [bank.capacity, bank.width]),
        filled: new this.ort.Tensor("bool", bank.filled, [bank.capacity]),
        value: this.tensor(bank.value, [count, bank.capacity, bank.channels]),
        sensory: state("sensory", this.sensory, first, count),
        summary: state("summary", this.summary, first, count),
        mask: state("mask", this.mask, first, count),
      });
      readout = joined(readout, found.readout.data);
      coarse = joined(coarse, found.coarse.data);
      first += count;
    }
    const whole = (this.frame + 1) % this.about.memory.full_frame_every === 0;
    const windows = whole ? [null] : chooseWindows(this.mask, coarse, first, this.padded);
    const { logits, sensory } = await this.decode(features, readout, windows);
    const [height, width] = this.padded;
    const { probs } = await this.run("combine", { logits: this.tensor(logits, [first, height / 4, width / 4]) });
    return { probs: probs.data, sensory };
  }

  /** Logits and sensory memory of all objects, each decoded in its window. */
  async decode({ skip8, skip4 }, readout, windows) {
    const count = this.ids.length;
    const [height, width] = this.padded.map((side) => side / STRIDE);
    const channels = readout.length / (count * height * width);
    if (!windows.some(Boolean)) {
      const shape = [count, channels, height, width];
      const found = await this.run("decode", { skip8, skip4, readout: this.tensor(readout, shape), sensory: this.tensor(this.sensory, shape) });
      return { logits: found.logits.data, sensory: found.new_sensory.data };
    }
    const fine = 16 * height * width;
    const size = channels * height * width;
    const logits = new Float32Array(count * fine).fill(ABSENT);
    const sensory = this.sensory.slice();
    for (let n = 0; n < count; n++) {
      const window = windows[n] || { top: 0, bottom: height, left: 0, right: width };
      const [rows, columns] = [window.bottom - window.top, window.right - window.left];
      const part = (data, channels, scale) =>
        this.tensor(crop(data, channels, height, width, window, scale), [1, channels, rows * scale, columns * scale]);
      const found = await this.run("decode", {
        skip8: part(skip8.data, skip8.dims[1], 2),
        skip4: part(skip4.data, skip4.dims[1], 4),
        readout: part(readout.subarray(n * size, (n + 1) * size), channels, 1),
        sensory: part(this.sensory.subarray(n * size, (n + 1) * size), channels, 1),
      });
      paste(found.logits.data, logits.subarray(n * fine, (n + 1) * fine), 1, height, width, window, 4);
      paste(found.new_sensory.data, sensory.subarray(n * size, (n + 1) * size), channels, height, width, window, 1);
    }
    return { logits, sensory };
  }

  /** Merge a label map into predicted probabilities and add its new objects. */
  accept(predicted, labels, given) {
    const known = this.ids.length;
    const [height, width] = this.padded;
    const [top, , left] = padding(this.about);
    const area = height * width;
    this.ids = [...this.ids, ...given.filter((id) => !this.ids.includes(id))];
    const masks = new Float32Array(this.ids.length * area);
    const named = new Set(given);
    if (predicted) {
      for (let n = 0; n < known; n++) if (!named.has(this.ids[n])) masks.set(predicted.subarray((n + 1) * area, (n + 2) * area), n * area);
    }
    const slots = new Map(this.ids.map((id, slot) => [id, slot]));
    for (let y = 0; y < this.size[0]; y++) {
      for (let x = 0; x < this.size[1]; x++) {
        const id = labels[y * this.size[1] + x];
        if (id <= 0) continue;
        const at = (y + top) * width + x + left;
        for (let n = 0; n < this.ids.length; n++) masks[n * area + at] = 0;
        masks[slots.get(id) * area + at] = 1;
      }
    }
    return softAggregate(masks, this.ids.length, area);
  }

  async memorise(image, features) {
    const count = this.ids.length;
    const shape = this.about.graphs.memorise.inputs.sensory.shape.slice(1);
    const all = new Float32Array(count * shape.reduce((a, b) => a * b));
    if (this.sensory) all.set(this.sensory);
    const several = count > 1 && this.about.memory.full_frame_every !== 1; // one object gains nothing from a window
    const windows = several ? maskWindows(this.mask, count, this.padded) : new Array(count).fill(null);
    const grid = this.padded.map((side) => side / STRIDE);
    const found = await this.run("memorise", {
      pixel: features.pixel,
      features: await this.embed(image, windows),
      mask: this.tensor(this.mask, [count, ...this.padded]),
      sensory: this.tensor(all, [count, ...shape]),
      inside: this.tensor(insides(windows, grid), [count, ...grid]),
    });
    const summary = found.summary.data;
    if (this.summary) for (let i = 0; i < this.summary.length; i++) summary[i] += this.summary[i];
    this.summary = summary;
    this.sensory = found.new_sensory.data;
    const fresh = this.ids.slice(this.banks.reduce((sum, bank) => sum + bank.ids.length, 0));
    if (fresh.length) this.banks.push(new Bank(fresh, this.about));
    let first = 0;
    for (const bank of this.banks) {
      bank.write(features.keys.data, found.value.data, first);
      first += bank.ids.length;
    }
  }

  /** Features of the masks, each encoded in its window, and what surrounds the windows once. */
  async embed(image, windows) {
    const count = this.ids.length;
    const [height, width] = this.padded;
    const area = height * width;
    const [top, , left] = padding(this.about);
    const frame = new Float32Array(3 * area);
    for (let row = 0; row < 3 * this.size[0]; row++) {
      const [c, y] = [Math.floor(row / this.size[0]), row % this.size[0]];
      frame.set(image.subarray(row * this.size[1], (row + 1) * this.size[1]), c * area + (y + top) * width + left);
    }
    const channels = this.about.graphs.embed.inputs.masks.shape[1];
    const total = new Float32Array(area);
    for (let n = 0; n < count; n++) for (let i = 0; i < area; i++) total[i] += this.mask[n * area + i];
    const masks = new Float32Array(count * channels * area);
    for (let n = 0; n < count; n++) {
      const own = this.mask.subarray(n * area, (n + 1) * area);
      masks.set(own, n * channels * area);
      if (channels > 1) for (let i = 0; i < area; i++) masks[(n * channels + 1) * area + i] = Math.min(Math.max(total[i] - own[i], 0), 1);
    }
    const encoded = async (image, masks, count, size) =>
      (await this.run("embed", { image: this.tensor(image, [1, 3, ...size]), masks: this.tensor(masks, [count, channels, ...size]) })).features;
    if (!windows.some(Boolean)) return encoded(frame, masks, count, this.padded);
    const shared = new Float32Array(channels * area);
    if (channels > 1) shared.set(total, area);
    const around = await encoded(frame, shared, 1, this.padded);
    const [, depth, rows, columns] = around.dims;
    const size = depth * rows * columns;
    const features = new Float32Array(count * size);
    for (let n = 0; n < count; n++) {
      const own = masks.subarray(n * channels * area, (n + 1) * channels * area);
      const target = features.subarray(n * size, (n + 1) * size);
      const window = windows[n];
      if (!window) {
        target.set((await encoded(frame, own, 1, this.padded)).data);
        continue;
      }
      target.set(around.data);
      const inner = [(window.bottom - window.top) * STRIDE, (window.right - window.left) * STRIDE];
      const part = (data, channels) => crop(data, channels, rows, columns, window, STRIDE);
      const found = await encoded(part(frame, 3), part(own, channels), 1, inner);
      paste(found.data, target, depth, rows, columns, window, 1);
    }
    return this.tensor(features, [count, depth, rows, columns]);
  }

  /** Offsets from a memory frame at which sensory memory is updated. */
  sensoryFrames() {
    const { mem_every: every, stagger_updates: updates } = this.about.memory;
    if (updates >= every) return new Set(Array.from({ length: every }, (_, i) => i + 1));
    return new Set(Array.from({ length: updates }, (_, i) => roundEven(updates === 1 ? 1 : 1 + ((every - 1) * i) / (updates - 1))));
  }
}

export function padding(about) {
  const { top, bottom, left, right } = about.frame.padding;
  return [top, bottom, left, right];
}

function joined(a, b) {
  if (!a.length) return b;
  const both = new Float32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/** Probabilities (1 + N, area) of background and objects from independent masks (N, area). */
export function softAggregate(masks, count, area) {
  const probs = new Float32Array((count + 1) * area);
  const odds = (p) => {
    const clamped = Math.min(Math.max(p, 1e-7), 1 - 1e-7);
    return clamped / (1 - clamped);
  };
  for (let i = 0; i < area; i++) {
    let background = 1;
    for (let n = 0; n < count; n++) background *= 1 - masks[n * area + i];
    let total = (probs[i] = odds(background));
    for (let n = 0; n < count; n++) total += probs[(n + 1) * area + i] = odds(masks[n * area + i]);
    for (let n = 0; n <= count; n++) probs[n * area + i] /= total;
  }
  return probs;
}

/** Label map (height, width) of probabilities at the padded size: resized bilinearly, then the strongest channel. */
export function labelMap(probs, ids, about, height, width) {
  const [rows, columns] = about.frame.size;
  const stride = about.frame.padded[1];
  const area = about.frame.padded[0] * stride;
  const [top, , left] = padding(about);
  const labels = new Int32Array(height * width);
  const xs = positions(columns, width);
  const ys = positions(rows, height);
  const row = new Float32Array(columns);
  const best = new Float32Array(width);
  for (let y = 0; y < height; y++) {
    const low = ys.low[y];
    const high = Math.min(low + 1, rows - 1);
    const share = ys.share[y];
    for (let n = 0; n <= ids.length; n++) {
      const a = n * area + (low + top) * stride + left;
      const b = n * area + (high + top) * stride + left;
      for (let x = 0; x < columns; x++) row[x] = probs[a + x] * (1 - share) + probs[b + x] * share;
      for (let x = 0; x < width; x++) {
        const at = xs.low[x];
        const value = row[at] * (1 - xs.share[x]) + row[Math.min(at + 1, columns - 1)] * xs.share[x];
        if (n === 0 || value > best[x]) {
          best[x] = value;
          labels[y * width + x] = n ? ids[n - 1] : 0;
        }
      }
    }
  }
  return labels;
}

function positions(length, target) {
  const low = new Int32Array(target);
  const share = new Float32Array(target);
  for (let i = 0; i < target; i++) {
    const at = Math.max(((i + 0.5) * length) / target - 0.5, 0);
    low[i] = Math.min(Math.floor(at), length - 1);
    share[i] = at - low[i];
  }
  return { low, share };
}

/** Label map resized by the nearest pixel centre. */
export function nearest(labels, height, width, rows, columns) {
  const out = new Int32Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    const from = Math.floor(((2 * y + 1) * height) / (2 * rows)) * width;
    for (let x = 0; x < columns; x++) out[y * columns + x] = labels[from + Math.floor(((2 * x + 1) * width) / (2 * columns))];
  }
  return out;
}

/** Throw an error unless frames of this size fit the graphs: the same aspect ratio, and not smaller. */
export function requireSize(about, height, width) {
  const [rows, columns] = about.frame.size;
  const scale = Math.min(rows, columns) / Math.min(height, width);
  const fits = scale <= 1 && Math.abs(Math.floor(height * scale) - rows) <= 1 && Math.abs(Math.floor(width * scale) - columns) <= 1;
  if (!fits) {
    throw new Error(`video: got frames of ${width} x ${height}, expected ${columns} x ${rows} or larger with the same aspect ratio; cutie-geo export onnx --size changes it`);
  }
}
