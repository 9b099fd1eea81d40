// Label maps as runs, the counterpart of runs.py: a slot for each pixel, 0 for background, and the ids of the slots.

const HEAD = 3;
const LONGEST_RUN = 0xffffff;

export function decodeRuns(buffer) {
  const words = new Uint32Array(buffer);
  const [height, width, count] = words;
  const ids = Array.from(words.subarray(HEAD, HEAD + count));
  const slots = new Uint8Array(height * width);
  let place = 0;
  for (let i = HEAD + count; i < words.length; i++) {
    const end = place + (words[i] & LONGEST_RUN);
    const slot = words[i] >>> 24;
    if (slot) slots.fill(slot, place, end);
    place = end;
  }
  return { height, width, ids, slots };
}

// The mask of one object: 1 where `slots` has `slot`.
export function encodeMask(labels, slot, id) {
  const { slots, height, width } = labels;
  const words = [height, width, 1, id];
  let start = 0;
  let inside = slots[0] === slot;
  for (let i = 1; i <= slots.length; i++) {
    if (i < slots.length && (slots[i] === slot) === inside) continue;
    for (let left = i - start; left > 0; left -= LONGEST_RUN) {
      words.push(((inside ? 1 : 0) << 24 | Math.min(left, LONGEST_RUN)) >>> 0);
    }
    start = i;
    inside = !inside;
  }
  return new Uint8Array(Uint32Array.from(words).buffer);
}

export function copyLabels(labels) {
  return { ...labels, ids: [...labels.ids], slots: labels.slots.slice() };
}

// The slot of an object, added if the frame does not show it yet.
export function slotOf(labels, id) {
  const found = labels.ids.indexOf(id);
  return found >= 0 ? found + 1 : labels.ids.push(id);
}

export function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

export function fromBase64(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}
