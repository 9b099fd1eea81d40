// The timeline: thumbnails, ranges of states, and the presence of each object on every frame.

import { clamp, el } from "./dom.js";

const THUMBS = 46;
const RULER = 18;
const STATE = 12;
const PRESENCE = 14;
const GAP = 3;
const MOST_THUMBS = 60;
const THUMBS_AT_ONCE = 2;
const SURE = 0.5; // presence below this is drawn as uncertain
const PAD = 8;

export class Timeline extends EventTarget {
  constructor(editor) {
    super();
    this.editor = editor;
    this.thumbs = new Map();
    this.waiting = [];
    this.loading = 0;
    this.canvas = el("canvas", { class: "timeline", tabindex: "0", role: "slider", "aria-label": "Frame",
      "aria-valuemin": "0" });
    this.tip = el("div", { class: "tip", hidden: true });
    this.element = el("div", { class: "timeline-box" }, this.canvas, this.tip);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.canvas.addEventListener("pointerdown", (event) => this.down(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", () => { this.dragging = false; });
    this.canvas.addEventListener("pointercancel", () => { this.dragging = false; });
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    this.observer = new ResizeObserver(() => requestAnimationFrame(() => this.resize()));
    this.observer.observe(this.element);
  }

  get height() {
    return RULER + THUMBS + GAP + STATE + GAP + Math.max(1, this.editor.objects.size) * (PRESENCE + GAP) + 4;
  }

  resize() {
    this.ratio = window.devicePixelRatio || 1;
    const width = this.element.clientWidth;
    if (!width) return;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.canvas.style.height = `${this.height}px`;
    this.width = width;
    this.draw();
  }

  // Left edge of a frame, in pixels.
  at(index) {
    return PAD + (index * (this.width - 2 * PAD)) / this.editor.count;
  }

  indexAt(x) {
    const place = ((x - PAD) / (this.width - 2 * PAD)) * this.editor.count;
    return clamp(Math.floor(place), 0, this.editor.count - 1);
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.dragging = true;
    this.pick(event);
  }

  move(event) {
    if (this.dragging) this.pick(event);
    this.hint(event);
  }

  pick(event) {
    const x = event.clientX - this.canvas.getBoundingClientRect().left;
    this.dispatchEvent(new CustomEvent("seek", { detail: this.indexAt(x) }));
  }

  hint(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const index = this.indexAt(event.clientX - bounds.left);
    const states = this.editor.statesOf(index);
    this.tip.textContent = [`Frame ${index}`, ...states].join(" · ");
    this.tip.hidden = false;
    const half = this.tip.offsetWidth / 2;
    this.tip.style.left = `${clamp(event.clientX - bounds.left, half, Math.max(half, this.width - half))}px`;
  }

  // ------------------------------------------------------------------------------------------------------- drawing
  colour(name) {
    return getComputedStyle(this.element).getPropertyValue(`--${name}`).trim();
  }

  draw() {
    if (this.pending || !this.width) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      if (Math.round(this.height * this.ratio) !== this.canvas.height) this.resize();
      this.paint();
    });
  }

  paint() {
    const { context, editor, ratio, width } = this;
    const { count } = editor;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = this.colour("panel");
    context.fillRect(0, 0, width, this.height);
    this.paintRuler();
    this.paintThumbs(RULER);
    let top = RULER + THUMBS + GAP;
    this.paintStates(top);
    top += STATE + GAP;
    for (const object of editor.objects.values()) {
      this.paintPresence(object, top);
      top += PRESENCE + GAP;
    }
    this.paintRange();
    const x = this.at(editor.frame);
    const step = Math.max(2, this.at(1) - this.at(0));
    context.fillStyle = this.colour("playhead-soft");
    context.fillRect(x, RULER - 4, step, this.height);
    context.fillStyle = this.colour("playhead");
    context.fillRect(x + step / 2 - 1, RULER - 6, 2, this.height);
    context.beginPath();
    context.moveTo(x + step / 2 - 6, RULER - 10);
    context.lineTo(x + step / 2 + 6, RULER - 10);
    context.lineTo(x + step / 2, RULER - 1);
    context.fill();
    this.canvas.setAttribute("aria-valuemax", String(count - 1));
    this.canvas.setAttribute("aria-valuenow", String(editor.frame));
    this.canvas.setAttribute("aria-valuetext", [`Frame ${editor.frame}`, ...editor.statesOf(editor.frame)].join(", "));
  }

  paintRuler() {
    const { context, editor, width } = this;
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000];
    const step = steps.find((value) => (value * (width - 2 * PAD)) / editor.count >= 64) ?? steps.at(-1);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "top";
    context.fillStyle = this.colour("muted");
    for (let index = 0; index < editor.count; index += step) {
      context.fillRect(this.at(index), RULER - 4, 1, 4);
      context.fillText(String(index), this.at(index) + 3, 2);
    }
  }

  paintThumbs(top) {
    const { context, editor, width } = this;
    const each = Math.max(24, Math.round((THUMBS * editor.width) / editor.height));
    const number = Math.min(MOST_THUMBS, Math.ceil((width - 2 * PAD) / each));
    for (let i = 0; i < number; i++) {
      const x = PAD + i * each;
      const wide = Math.min(each, width - PAD - x);
      const index = this.indexAt(x + wide / 2);
      const image = this.thumb(index);
      context.fillStyle = this.colour("sunken");
      context.fillRect(x, top, wide, THUMBS);
      if (image?.complete && image.naturalWidth) {
        const share = wide / each;
        context.drawImage(image, 0, 0, image.naturalWidth * share, image.naturalHeight, x, top, wide - 1, THUMBS);
      }
    }
  }

  thumb(index) {
    let image = this.thumbs.get(index);
    if (!image) {
      image = new Image();
      image.decoding = "async";
      image.fetchPriority = "low";
      this.thumbs.set(index, image);
      if (this.thumbs.size > 4 * MOST_THUMBS) this.thumbs.delete(this.thumbs.keys().next().value);
      this.waiting.push([index, image]);
      this.loadThumbs();
    }
    return image;
  }

  // Few at a time: a browser opens six connections, and frames come first.
  loadThumbs() {
    while (this.loading < THUMBS_AT_ONCE && this.waiting.length) {
      const [index, image] = this.waiting.shift();
      this.loading += 1;
      image.onload = image.onerror = () => {
        this.loading -= 1;
        this.loadThumbs();
        this.draw();
      };
      image.src = `/api/videos/${this.editor.id}/thumbs/${index}`;
    }
  }

  paintStates(top) {
    const { context, editor } = this;
    const { status } = editor;
    context.fillStyle = this.colour("sunken");
    context.fillRect(PAD, top, this.width - 2 * PAD, STATE);
    const bar = (ranges, colour, y, height) => {
      context.fillStyle = this.colour(colour);
      for (const [start, stop] of ranges) {
        context.fillRect(this.at(start), top + y, Math.max(1.5, this.at(stop + 1) - this.at(start)), height);
      }
    };
    bar(status.tracked, "tracked", 0, STATE);
    this.paintStale(status.stale, top);
    bar(status.locked, "approved", STATE - 5, 5);
    for (const frame of Object.keys(status.prompts)) {
      const x = (this.at(Number(frame)) + this.at(Number(frame) + 1)) / 2;
      context.fillStyle = this.colour("prompted");
      context.strokeStyle = this.colour("panel");
      context.beginPath();
      context.moveTo(x, top - 1);
      context.lineTo(x + 5, top + 5);
      context.lineTo(x, top + 11);
      context.lineTo(x - 5, top + 5);
      context.closePath();
      context.fill();
      context.stroke();
    }
  }

  // Stale ranges are hatched, so that they differ from tracked ones without the colour.
  paintStale(ranges, top) {
    const { context } = this;
    context.save();
    context.strokeStyle = this.colour("stale");
    context.lineWidth = 2;
    for (const [start, stop] of ranges) {
      const left = this.at(start);
      const right = Math.max(left + 2, this.at(stop + 1));
      context.save();
      context.beginPath();
      context.rect(left, top, right - left, STATE);
      context.clip();
      context.beginPath();
      for (let x = left - STATE; x < right; x += 6) {
        context.moveTo(x, top + STATE);
        context.lineTo(x + STATE, top);
      }
      context.stroke();
      context.restore();
    }
    context.restore();
  }

  paintPresence(object, top) {
    const { context, editor } = this;
    const scores = editor.status.presence[object.id] ?? [];
    const active = object.id === editor.view.object;
    context.fillStyle = this.colour("sunken");
    context.fillRect(PAD, top, this.width - 2 * PAD, PRESENCE);
    context.globalAlpha = object.hidden ? 0.4 : 1;
    const step = this.at(1) - this.at(0);
    const uncertain = this.colour("stale");
    for (let i = 0; i < scores.length; i++) {
      const score = scores[i];
      if (score === null || score === undefined || score < 0) continue;
      const height = Math.max(2, score * PRESENCE);
      context.fillStyle = object.colour;
      context.fillRect(this.at(i), top + PRESENCE - height, Math.max(1, step - (step > 4 ? 1 : 0)), height);
      if (score < SURE) {
        context.fillStyle = uncertain;
        context.fillRect(this.at(i), top, Math.max(1, step - (step > 4 ? 1 : 0)), 2);
      }
    }
    context.globalAlpha = 1;
    if (active) {
      context.strokeStyle = this.colour("focus");
      context.lineWidth = 1;
      context.strokeRect(PAD - 0.5, top - 0.5, this.width - 2 * PAD + 1, PRESENCE + 1);
    }
  }

  paintRange() {
    const { context, editor } = this;
    const { start, stop } = editor.range;
    if (start === null && stop === null) return;
    const left = this.at(start ?? 0);
    const right = this.at((stop ?? editor.count - 1) + 1);
    context.fillStyle = this.colour("shade");
    context.fillRect(PAD, RULER, left - PAD, this.height);
    context.fillRect(right, RULER, this.width - PAD - right, this.height);
    context.fillStyle = this.colour("focus");
    context.fillRect(left - 1, RULER, 2, THUMBS);
    context.fillRect(right - 1, RULER, 2, THUMBS);
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.pending);
    this.waiting = [];
    this.thumbs.clear();
  }
}
