// Masks from clicks and boxes by the exported prompt head: the same steps as cutie_geo.onnx.prompts.

const AFRESH_POINTS = 4;
const ZOOM_MARGIN = 1.4;
const ZOOM_SIDE = 256;
const ZOOM_GAIN = 1.25;
const ZOOM_LEAST = 32;
const SAME_VIEW = 0.8;

/** Resize maps (channels, height, width) bilinearly with aligned pixel centres, with antialiasing where they shrink. */
export function resize(data, channels, [height, width], [rows, columns], antialias = false) {
  if (height === rows && width === columns) return data;
  const ys = taps(height, rows, antialias);
  const xs = taps(width, columns, antialias);
  const tall = new Float32Array(channels * rows * width);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      const to = (c * rows + y) * width;
      for (let t = 0; t < ys.count; t++) {
        const weight = ys.weight[t * rows + y];
        if (!weight) continue;
        const from = (c * height + ys.index[t * rows + y]) * width;
        for (let x = 0; x < width; x++) tall[to + x] += weight * data[from + x];
      }
    }
  }
  const out = new Float32Array(channels * rows * columns);
  for (let row = 0; row < channels * rows; row++) {
    for (let t = 0; t < xs.count; t++) {
      for (let x = 0; x < columns; x++) out[row * columns + x] += xs.weight[t * columns + x] * tall[row * width + xs.index[t * columns + x]];
    }
  }
  return out;
}

/** Inputs and weights of each output of a resized axis. */
function taps(length, target, antialias) {
  const scale = length / target;
  const support = antialias ? Math.max(scale, 1) : 1;
  const first = new Int32Array(target);
  const last = new Int32Array(target);
  let count = 2;
  for (let i = 0; i < target; i++) {
    const centre = (i + 0.5) * scale;
    first[i] = Math.max(Math.floor(centre - support + 0.5), 0);
    last[i] = Math.min(Math.floor(centre + support + 0.5), length);
    count = Math.max(count, last[i] - first[i]);
  }
  const index = new Int32Array(count * target);
  const weight = new Float32Array(count * target);
  for (let i = 0; i < target; i++) {
    const centre = (i + 0.5) * scale;
    let total = 0;
    for (let t = 0; t < count; t++) {
      const at = first[i] + t;
      index[t * target + i] = Math.min(at, length - 1);
      const share = at < last[i] ? Math.max(1 - Math.abs(at - centre + 0.5) / support, 0) : 0;
      weight[t * target + i] = share;
      total += share;
    }
    for (let t = 0; t < count; t++) weight[t * target + i] /= total;
  }
  return { count, index, weight };
}

/** Part of maps (channels, height, width). */
function cropped(data, channels, height, width, { x0, y0, x1, y1 }) {
  const out = new Float32Array(channels * (y1 - y0) * (x1 - x0));
  let at = 0;
  for (let c = 0; c < channels; c++) {
    for (let y = y0; y < y1; y++) {
      const row = (c * height + y) * width;
      out.set(data.subarray(row + x0, row + x1), at);
      at += x1 - x0;
    }
  }
  return out;
}

/** Maps with zeros around them. */
function padded(data, channels, [height, width], [top, bottom, left, right]) {
  const [rows, columns] = [height + top + bottom, width + left + right];
  const out = new Float32Array(channels * rows * columns);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      const row = (c * height + y) * width;
      out.set(data.subarray(row, row + width), (c * rows + y + top) * columns + left);
    }
  }
  return out;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const logitOf = (probability) => Math.log(probability / (1 - probability));

export class Prompter {
  /** @param run function that runs a graph: (name, feed) => outputs by name. */
  constructor(ort, about, run) {
    if (!about.graphs.prompt) throw new Error(`prompt: ${about.model} was exported without a prompt head, expected a model that has one`);
    Object.assign(this, { ort, about, run, zooms: Boolean(about.graphs.look) });
  }

  /**
   * Encode a frame once for any number of prompts.
   * @param pixels Float32Array (3, height, width) in [0, 1].
   * @param features outputs of the graph `encode` for this frame.
   */
  begin(pixels, height, width, features) {
    const { size, padding } = this.about.frame;
    const { f16, f8, f4 } = features;
    const region = { x0: 0, y0: 0, x1: width, y1: height };
    const whole = { region, internal: size, padding: [padding.top, padding.bottom, padding.left, padding.right], features: { f16, f8, f4 } };
    this.frame = { pixels, height, width, whole, zoomed: null };
  }

  /**
   * Mask of one object.
   * @param prompt {points: [[x, y, label], ...], box: [x0, y0, x1, y1] or null} in pixels of the frame.
   * @param mask Float32Array (height, width) of probabilities of the object so far, or null.
   * @param fromPrompts true if the mask came from earlier points of this prompt; the mean of the corrected mask and of
   *   one that is predicted afresh is returned for the first points then.
   * @returns {logits, quality}; the mask is where logits are positive.
   */
  async predict(prompt, mask = null, fromPrompts = false) {
    const positive = prompt.points.some(([, , label]) => label === 1);
    if (!positive && !prompt.box && !mask) throw new Error("prompt: expected a positive click or a box");
    const found = await this.corrected(prompt, mask);
    if (!mask || !fromPrompts || prompt.points.length > AFRESH_POINTS) return found;
    const afresh = await this.corrected(prompt, null);
    const logits = found.logits.map((logit, i) => logitOf((sigmoid(logit) + sigmoid(afresh.logits[i])) / 2));
    return { logits, quality: (found.quality + afresh.quality) / 2 };
  }

  /** Mask of one object from its mask so far, if any, refined on an enlarged view; see `predict`. */
  async corrected(prompt, mask) {
    const { height, width, whole } = this.frame;
    const found = await this.look(whole, prompt, mask);
    found.logits = connected(found.logits, height, width, prompt, mask);
    const region = this.zooms ? this.enlarged(found.logits, prompt) : null;
    if (!region) return found;
    const view = await this.zoomed(region);
    const closer = await this.look(view, prompt, found.logits.map(sigmoid));
    const { x0, y0, x1, y1 } = view.region;
    for (let y = y0; y < y1; y++) found.logits.set(closer.logits.subarray((y - y0) * (x1 - x0), (y - y0 + 1) * (x1 - x0)), y * width + x0);
    return { logits: connected(found.logits, height, width, prompt, mask), quality: closer.quality };
  }

  /** Predict on one view; logits have the size of its region. */
  async look(view, prompt, mask) {
    const { x0, y0, x1, y1 } = view.region;
    const [rows, columns] = view.internal;
    const [top, bottom, left, right] = view.padding;
    const slots = this.about.prompt.points;
    const [sx, sy] = [columns / (x1 - x0), rows / (y1 - y0)];
    const clicks = prompt.points.filter(([x, y]) => x >= x0 && x <= x1 && y >= y0 && y <= y1);
    if (clicks.length > slots) throw new Error(`points: got ${clicks.length}, expected at most ${slots}; cutie-geo export onnx --prompt-points changes it`);
    const points = new Float32Array(2 * slots);
    const labels = new Float32Array(slots).fill(-1);
    clicks.forEach(([x, y, label], i) => {
      points.set([(x - x0) * sx + left, (y - y0) * sy + top], 2 * i);
      labels[i] = label;
    });
    const box = new Float32Array(4);
    if (prompt.box) prompt.box.forEach((side, i) => (box[i] = i % 2 ? (side - y0) * sy + top : (side - x0) * sx + left));
    const size = [rows + top + bottom, columns + left + right];
    let before = new Float32Array(size[0] * size[1]);
    if (mask) {
      const part = cropped(mask, 1, this.frame.height, this.frame.width, view.region);
      before = padded(resize(part, 1, [y1 - y0, x1 - x0], view.internal, true), 1, view.internal, view.padding);
    }
    const tensor = (data, shape) => new this.ort.Tensor("float32", data, shape);
    const found = await this.run("prompt", {
      ...view.features,
      points: tensor(points, [1, slots, 2]),
      labels: tensor(labels, [1, slots]),
      box: tensor(box, [1, 4]),
      mask: tensor(before, [1, ...size]),
      filled: new this.ort.Tensor("bool", Uint8Array.of(prompt.box ? 1 : 0, mask ? 1 : 0), [2]),
    });
    const inner = cropped(found.logits.data, 1, size[0], size[1], { x0: left, y0: top, x1: left + columns, y1: top + rows });
    return { logits: resize(inner, 1, view.internal, [y1 - y0, x1 - x0]).slice(), quality: found.quality.data[0] };
  }

  /** Region around a mask and its prompts to enlarge; null if it would gain little. */
  enlarged(logits, prompt) {
    const { height, width, whole } = this.frame;
    let [left, right, top, bottom] = [width, -1, height, -1];
    for (let i = 0; i < logits.length; i++) {
      if (logits[i] <= 0) continue;
      const x = i % width;
      const y = (i - x) / width;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
    }
    const places = prompt.points.filter(([, , label]) => label === 1).map(([x, y]) => [x, y]);
    if (right >= 0) places.push([left, top], [right + 1, bottom + 1]);
    if (prompt.box) places.push(prompt.box.slice(0, 2), prompt.box.slice(2));
    if (!places.length) return null;
    const [[x0, x1], [y0, y1]] = [width, height].map((whole, axis) => {
      const values = places.map((place) => place[axis]);
      const [least, most] = [Math.min(...values), Math.max(...values)];
      const middle = (least + most) / 2;
      const half = Math.max((most - least) * ZOOM_MARGIN, ZOOM_LEAST) / 2;
      return [Math.max(Math.trunc(middle - half), 0), Math.min(Math.trunc(middle + half) + 1, whole)];
    });
    const gain = ZOOM_SIDE / Math.max(y1 - y0, x1 - x0) / (whole.internal[0] / height);
    return gain >= ZOOM_GAIN ? { x0, y0, x1, y1 } : null;
  }

  /** Enlarged view of a region; the last one again if it is nearly the same. */
  async zoomed(region) {
    const { pixels, height, width, zoomed } = this.frame;
    if (zoomed && iou(zoomed.region, region) >= SAME_VIEW) return zoomed;
    const size = [region.y1 - region.y0, region.x1 - region.x0];
    const scale = ZOOM_SIDE / Math.max(...size);
    const internal = size.map((side) => Math.max(roundEven(side * scale), 1));
    const multiple = this.about.prompt.multiple;
    const [high, wide] = internal.map((side) => (multiple - (side % multiple)) % multiple);
    const padding = [high >> 1, high - (high >> 1), wide >> 1, wide - (wide >> 1)];
    const part = resize(cropped(pixels, 3, height, width, region), 3, size, internal, true);
    const shape = [1, 3, internal[0] + high, internal[1] + wide];
    const features = await this.run("look", { image: new this.ort.Tensor("float32", padded(part, 3, internal, padding), shape) });
    const { f16, f8, f4 } = features;
    return (this.frame.zoomed = { region, internal, padding, features: { f16, f8, f4 } });
  }
}

function iou(a, b) {
  const wide = Math.min(a.x1, b.x1) - Math.max(a.x0, b.x0);
  const high = Math.min(a.y1, b.y1) - Math.max(a.y0, b.y0);
  const both = Math.max(wide, 0) * Math.max(high, 0);
  const area = ({ x0, y0, x1, y1 }) => (x1 - x0) * (y1 - y0);
  return both / (area(a) + area(b) - both);
}

/** Round halves to even, as numpy does. */
export function roundEven(x) {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + (floor % 2) : Math.round(x);
}

/** Remove components that no prompt points at; all stay if none is pointed at. */
function connected(logits, height, width, prompt, before) {
  const { labels, sizes } = components(logits, height, width);
  const kept = new Set();
  for (const [x, y, label] of prompt.points) {
    if (label === 1) kept.add(labels[Math.min(Math.trunc(y), height - 1) * width + Math.min(Math.trunc(x), width - 1)]);
  }
  if (before) before.forEach((value, i) => value > 0.5 && kept.add(labels[i]));
  if (prompt.box) {
    const [x0, y0, x1, y1] = prompt.box.map((side) => Math.max(roundEven(side), 0));
    const inside = new Uint32Array(sizes.length);
    for (let y = y0; y < Math.min(y1, height); y++) for (let x = x0; x < Math.min(x1, width); x++) inside[labels[y * width + x]]++;
    sizes.forEach((size, label) => 2 * inside[label] >= size && kept.add(label));
  }
  kept.delete(0);
  if (!kept.size || kept.size === sizes.length - 1) return logits;
  return logits.map((value, i) => (labels[i] && !kept.has(labels[i]) ? -value : value));
}

/** Labels of the 8-connected components where logits are positive, from 1 on, and the sizes by label. */
function components(logits, height, width) {
  const labels = new Int32Array(height * width);
  const sizes = [0];
  const stack = [];
  for (let seed = 0; seed < labels.length; seed++) {
    if (logits[seed] <= 0 || labels[seed]) continue;
    const label = sizes.push(0) - 1;
    labels[seed] = label;
    stack.push(seed);
    while (stack.length) {
      const at = stack.pop();
      sizes[label]++;
      const x = at % width;
      const y = (at - x) / width;
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const next = v * width + u;
          if (logits[next] <= 0 || labels[next]) continue;
          labels[next] = label;
          stack.push(next);
        }
      }
    }
  }
  sizes[0] = labels.length - sizes.reduce((a, b) => a + b, 0);
  return { labels, sizes };
}
