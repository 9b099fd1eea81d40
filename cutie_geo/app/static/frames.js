// Frames and label maps of one video: fetched on demand, the newest request first, kept in bounded caches.

import { decodeRuns } from "./runs.js";

const BITMAP_BYTES = 192 * 2 ** 20;
const LABEL_BYTES = 48 * 2 ** 20;
const MOST_BITMAPS = 160;
const AT_ONCE = 4;

class Cache {
  constructor(most, drop = () => {}) {
    this.most = Math.max(8, Math.floor(most));
    this.items = new Map();
    this.drop = drop;
  }

  get(key) {
    const item = this.items.get(key);
    if (item !== undefined) {
      this.items.delete(key);
      this.items.set(key, item);
    }
    return item;
  }

  set(key, item) {
    const old = this.items.get(key);
    if (old !== undefined) this.drop(old);
    this.items.delete(key);
    this.items.set(key, item);
    while (this.items.size > this.most) this.delete(this.items.keys().next().value);
  }

  delete(key) {
    const item = this.items.get(key);
    if (item !== undefined) this.drop(item);
    this.items.delete(key);
  }

  clear() {
    for (const key of [...this.items.keys()]) this.delete(key);
  }
}

// Fetches at most AT_ONCE things. Urgent requests overtake prefetched ones, and an outdated urgent one is dropped.
class Fetcher {
  constructor() {
    this.running = new Map();
    this.queue = [];
  }

  get(key, run, urgent) {
    const known = this.running.get(key) ?? this.queue.find((item) => item.key === key);
    if (known) {
      if (urgent && known.waiting) this.queue = [known, ...this.queue.filter((item) => item !== known)];
      known.urgent ||= urgent;
      return known.promise;
    }
    const item = { key, run, urgent, waiting: true };
    item.promise = new Promise((resolve, reject) => Object.assign(item, { resolve, reject }));
    item.promise.catch(() => {});
    if (urgent) this.queue.unshift(item);
    else this.queue.push(item);
    this.next();
    return item.promise;
  }

  // Forget requests that have not started and are not in `keep`.
  drop(keep) {
    const dropped = this.queue.filter((item) => !keep.has(item.key));
    this.queue = this.queue.filter((item) => keep.has(item.key));
    for (const item of dropped) item.reject(new DOMException("outdated", "AbortError"));
  }

  next() {
    while (this.running.size < AT_ONCE && this.queue.length) {
      const item = this.queue.shift();
      item.waiting = false;
      this.running.set(item.key, item);
      item.run().then(item.resolve, item.reject).finally(() => {
        this.running.delete(item.key);
        this.next();
      });
    }
  }
}

async function answer(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error((await response.text()).trim() || `The program answered ${response.status}.`);
  return response;
}

export class Frames {
  constructor(video, width, height, count) {
    this.base = `/api/videos/${video}`;
    this.count = count;
    const bitmaps = Math.min(MOST_BITMAPS, BITMAP_BYTES / (4 * width * height));
    this.bitmaps = new Cache(bitmaps, (bitmap) => bitmap.close());
    this.labels = new Cache(LABEL_BYTES / (width * height));
    this.versions = new Map();
    this.version = 0;
    this.fetcher = new Fetcher();
  }

  image(index, urgent = true) {
    const known = this.bitmaps.get(index);
    if (known) return Promise.resolve(known);
    return this.fetcher.get(`frame ${index}`, async () => {
      const response = await answer(`${this.base}/frames/${index}`);
      const bitmap = await createImageBitmap(await response.blob());
      this.bitmaps.set(index, bitmap);
      return bitmap;
    }, urgent);
  }

  mask(index, urgent = true) {
    const known = this.labels.get(index);
    if (known) return Promise.resolve(known);
    const version = this.stamp(index);
    return this.fetcher.get(`labels ${index} ${version}`, async () => {
      const response = await answer(`${this.base}/labels/${index}`);
      const labels = decodeRuns(await response.arrayBuffer());
      if (this.stamp(index) === version) this.labels.set(index, labels); // not if it changed on the way
      return labels;
    }, urgent);
  }

  stamp(index) {
    return `${this.version}.${this.versions.get(index) ?? 0}`;
  }

  setMask(index, labels) {
    this.versions.set(index, (this.versions.get(index) ?? 0) + 1);
    this.labels.set(index, labels);
  }

  // Forget the label maps of some frames, or of all.
  changed(frames = null) {
    if (frames === null) {
      this.version += 1;
      this.labels.clear();
      return;
    }
    for (const index of frames) {
      this.versions.set(index, (this.versions.get(index) ?? 0) + 1);
      this.labels.delete(index);
    }
  }

  has(index) {
    return this.bitmaps.items.has(index) && this.labels.items.has(index);
  }

  // Fetch frames around `index` while nothing else is asked for, and drop older wishes.
  prefetch(index, ahead = 6, behind = 2) {
    const wanted = [];
    for (let step = 0; step <= ahead; step++) wanted.push(index + step);
    for (let step = 1; step <= behind; step++) wanted.push(index - step);
    const valid = wanted.filter((i) => i >= 0 && i < this.count);
    this.fetcher.drop(new Set(valid.flatMap((i) => [`frame ${i}`, `labels ${i} ${this.stamp(i)}`])));
    for (const i of valid) {
      this.image(i, false).catch(() => {});
      this.mask(i, false).catch(() => {});
    }
  }

  close() {
    this.fetcher.drop(new Set());
    this.bitmaps.clear();
    this.labels.clear();
  }
}
