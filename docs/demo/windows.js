// Parts of a frame in which objects are decoded and encoded: the same choice as cutie_geo.onnx.windows.
import { roundEven } from "./prompts.js";

export const STRIDE = 16;
export const ABSENT = -20;
const LAST_SHARE = 0.02;
const COARSE_PROBABILITY = 0.2;
const [MARGIN, MARGIN_SHARE] = [1, 0.125];
const LARGEST_SHARE = 0.7;

/** Windows {top, bottom, left, right} around the last masks and the coarse masks; null for the whole frame. */
export function chooseWindows(masks, coarse, count, size) {
  const share = cells(masks, count, size);
  const [rows, columns] = size.map((side) => side / STRIDE);
  return Array.from({ length: count }, (_, n) => {
    const at = n * rows * columns;
    return around((i) => share[at + i] > LAST_SHARE || coarse[at + i] > COARSE_PROBABILITY, rows, columns);
  });
}

/** Window in which each object's mask is encoded; the smallest for an object that is not in the frame. */
export function maskWindows(masks, count, size) {
  const share = cells(masks, count, size);
  const [rows, columns] = size.map((side) => side / STRIDE);
  return Array.from({ length: count }, (_, n) => {
    const own = share.subarray(n * rows * columns, (n + 1) * rows * columns);
    return own.some((value) => value > LAST_SHARE) ? around((i) => own[i] > LAST_SHARE, rows, columns) : { top: 0, bottom: 1, left: 0, right: 1 };
  });
}

/** 1 in the window of each object and 0 around it. */
export function insides(windows, [rows, columns]) {
  const inside = new Float32Array(windows.length * rows * columns);
  windows.forEach((window, n) => {
    const { top, bottom, left, right } = window || { top: 0, bottom: rows, left: 0, right: columns };
    for (let y = top; y < bottom; y++) inside.fill(1, (n * rows + y) * columns + left, (n * rows + y) * columns + right);
  });
  return inside;
}

/** Part of maps (channels, height * scale, width * scale); windows are in positions of stride 16. */
export function crop(data, channels, height, width, window, scale) {
  const [rows, columns] = [(window.bottom - window.top) * scale, (window.right - window.left) * scale];
  const out = new Float32Array(channels * rows * columns);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      const from = ((c * height * scale + window.top * scale + y) * width + window.left) * scale;
      out.set(data.subarray(from, from + columns), (c * rows + y) * columns);
    }
  }
  return out;
}

/** Write maps into a part of larger ones, the reverse of `crop`. */
export function paste(data, target, channels, height, width, window, scale) {
  const [rows, columns] = [(window.bottom - window.top) * scale, (window.right - window.left) * scale];
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      const to = ((c * height * scale + window.top * scale + y) * width + window.left) * scale;
      target.set(data.subarray((c * rows + y) * columns, (c * rows + y + 1) * columns), to);
    }
  }
}

/** Average of masks (count, height, width) over cells of 16 x 16 pixels. */
function cells(masks, count, [height, width]) {
  const [rows, columns] = [height / STRIDE, width / STRIDE];
  const share = new Float32Array(count * rows * columns);
  for (let row = 0; row < count * height; row++) {
    const to = Math.floor(row / STRIDE) * columns;
    for (let x = 0; x < width; x++) share[to + (x >> 4)] += masks[row * width + x] / (STRIDE * STRIDE);
  }
  return share;
}

function around(occupied, rows, columns) {
  let [top, bottom, left, right] = [rows, 0, columns, 0];
  for (let i = 0; i < rows * columns; i++) {
    if (!occupied(i)) continue;
    const x = i % columns;
    const y = (i - x) / columns;
    [top, bottom, left, right] = [Math.min(top, y), Math.max(bottom, y + 1), Math.min(left, x), Math.max(right, x + 1)];
  }
  if (!bottom) return null;
  [top, bottom] = extended(top, bottom, rows);
  [left, right] = extended(left, right, columns);
  return (bottom - top) * (right - left) > LARGEST_SHARE * rows * columns ? null : { top, bottom, left, right };
}

function extended(start, end, count) {
  const margin = MARGIN + roundEven(MARGIN_SHARE * (end - start));
  return [Math.max(start - margin, 0), Math.min(end + margin, count)];
}
