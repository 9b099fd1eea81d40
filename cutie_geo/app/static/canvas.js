// The frame with its masks: drawing, zoom and pan, and what the pointer does.

import { clamp, el } from "./dom.js";
import { copyLabels, slotOf } from "./runs.js";

const LARGEST_ZOOM = 32;
const DRAG = 4; // pixels on screen from which a press is a drag
const CRISP = 3; // zoom from which pixels are shown as squares
const CHECKER = 12;

function rgb(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

export class Viewer extends EventTarget {
  // `view` holds what is shown: style, opacity, points, tool, brush, object; the editor changes it and calls draw().
  constructor(view, width, height) {
    super();
    Object.assign(this, { view, width, height });
    this.canvas = el("canvas", { class: "frame", tabindex: "0", "aria-label":
      "Frame. Click adds to the object, right click subtracts, dragging makes a box." });
    this.element = el("div", { class: "viewer" }, this.canvas);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.overlay = new OffscreenCanvas(width, height);
    this.layer = new OffscreenCanvas(width, height);
    this.image = null;
    this.labels = null;
    this.prompts = {};
    this.asked = null; // prompt whose mask has not come yet
    this.box = null;
    this.pointer = null;
    this.stroke = null;
    this.fitted = true;
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.listen();
    this.observer = new ResizeObserver(() => requestAnimationFrame(() => this.resize()));
    this.observer.observe(this.element);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
  }

  // ------------------------------------------------------------------------------------------------------ geometry
  resize() {
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || !clientHeight) return;
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * this.ratio);
    this.canvas.height = Math.round(clientHeight * this.ratio);
    if (this.fitted) this.fit();
    this.draw();
  }

  fit() {
    const margin = 16;
    const { clientWidth, clientHeight } = this.element;
    this.scale = Math.max(0.02, Math.min((clientWidth - margin) / this.width, (clientHeight - margin) / this.height));
    this.left = (clientWidth - this.width * this.scale) / 2;
    this.top = (clientHeight - this.height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  zoom(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const scale = clamp(this.scale * factor, 0.05, LARGEST_ZOOM);
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.keepInSight();
    this.draw();
  }

  keepInSight() {
    const { clientWidth, clientHeight } = this.element;
    const part = 40;
    this.left = clamp(this.left, part - this.width * this.scale, clientWidth - part);
    this.top = clamp(this.top, part - this.height * this.scale, clientHeight - part);
  }

  // Position in pixels of the frame.
  place(event) {
    const bounds = this.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - bounds.left - this.left) / this.scale,
      y: (event.clientY - bounds.top - this.top) / this.scale,
      screenX: event.clientX - bounds.left,
      screenY: event.clientY - bounds.top,
    };
  }

  inside({ x, y }) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  // ------------------------------------------------------------------------------------------------------- pointer
  wheel(event) {
    event.preventDefault();
    const amount = event.deltaY || event.deltaX;
    if (event.shiftKey && ["brush", "eraser"].includes(this.view.tool)) {
      this.dispatchEvent(new CustomEvent("brushsize", { detail: amount < 0 ? 1.15 : 1 / 1.15 }));
      return;
    }
    const { screenX, screenY } = this.place(event);
    this.zoom(Math.exp(-clamp(amount, -240, 240) / 500), screenX, screenY);
  }

  down(event) {
    this.canvas.focus({ preventScroll: true });
    const place = this.place(event);
    this.canvas.setPointerCapture(event.pointerId);
    const pan = event.button === 1 || this.view.tool === "pan";
    this.press = { ...place, startLeft: this.left, startTop: this.top, pan, moved: false,
      negative: event.button === 2 || event.altKey };
    if (!pan) this.dispatchEvent(new Event("press"));
    if (pan) event.preventDefault();
    else if (["brush", "eraser"].includes(this.view.tool)) this.startStroke(place, this.press.negative);
  }

  move(event) {
    const place = this.place(event);
    this.pointer = place;
    const { press } = this;
    if (press) {
      const x = place.screenX - press.screenX;
      const y = place.screenY - press.screenY;
      if (Math.hypot(x, y) >= DRAG) press.moved = true;
      if (press.pan) {
        this.left = press.startLeft + x;
        this.top = press.startTop + y;
        this.fitted = false;
        this.keepInSight();
      } else if (this.stroke) {
        const events = event.getCoalescedEvents?.() ?? [];
        for (const part of events.length ? events : [event]) this.paintTo(this.place(part));
      } else if (press.moved && this.view.tool === "point" && !press.negative) {
        this.box = this.boxOf(press, place);
      }
    }
    this.draw();
  }

  boxOf(a, b) {
    const round = (value) => Math.round(value * 10) / 10;
    return [clamp(Math.min(a.x, b.x), 0, this.width), clamp(Math.min(a.y, b.y), 0, this.height),
      clamp(Math.max(a.x, b.x), 0, this.width), clamp(Math.max(a.y, b.y), 0, this.height)].map(round);
  }

  up(event) {
    const { press } = this;
    this.press = null;
    if (!press || press.pan) return;
    if (this.stroke) {
      this.endStroke();
      return;
    }
    const { box } = this;
    this.box = null;
    if (this.view.tool === "point") {
      if (box && box[2] - box[0] >= 1 && box[3] - box[1] >= 1) {
        this.dispatchEvent(new CustomEvent("box", { detail: box }));
      } else if (!press.moved && this.inside(press)) {
        const point = [Math.floor(press.x * 10) / 10, Math.floor(press.y * 10) / 10];
        this.dispatchEvent(new CustomEvent("point", { detail: { point, label: press.negative ? 0 : 1 } }));
      }
    }
    this.draw();
  }

  // Drop what is being drawn; true if there was something.
  cancel() {
    const active = Boolean(this.stroke || this.box);
    if (this.stroke) this.labels = this.stroke.before;
    this.stroke = null;
    this.box = null;
    this.press = null;
    this.tint();
    this.draw();
    return active;
  }

  // --------------------------------------------------------------------------------------------------------- brush
  startStroke(place, negative) {
    if (!this.labels || !this.view.object || !this.view.editable()) return;
    const labels = copyLabels(this.labels);
    const erase = (this.view.tool === "eraser") !== negative;
    this.stroke = { before: this.labels, labels, erase, slot: slotOf(labels, this.view.object), last: place };
    this.labels = labels;
    this.paintTo(place);
    this.draw();
  }

  paintTo(place) {
    const { stroke } = this;
    const radius = this.view.brush / 2;
    const distance = Math.hypot(place.x - stroke.last.x, place.y - stroke.last.y);
    const steps = Math.max(1, Math.ceil(distance / Math.max(0.5, radius / 2)));
    for (let step = 1; step <= steps; step++) {
      const share = step / steps;
      this.dab(stroke.last.x + (place.x - stroke.last.x) * share, stroke.last.y + (place.y - stroke.last.y) * share, radius);
    }
    this.tint(stroke.last, place, radius);
    stroke.last = place;
  }

  dab(x, y, radius) {
    const { slots } = this.labels;
    const { erase, slot } = this.stroke;
    const square = Math.max(0.5, radius * radius);
    const top = Math.max(0, Math.floor(y - radius));
    const bottom = Math.min(this.height - 1, Math.ceil(y + radius));
    const left = Math.max(0, Math.floor(x - radius));
    const right = Math.min(this.width - 1, Math.ceil(x + radius));
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const dx = column + 0.5 - x;
        const dy = row + 0.5 - y;
        if (dx * dx + dy * dy > square) continue;
        const at = row * this.width + column;
        if (!erase) slots[at] = slot;
        else if (slots[at] === slot) slots[at] = 0;
      }
    }
  }

  endStroke() {
    const { labels, slot, before } = this.stroke;
    this.stroke = null;
    this.dispatchEvent(new CustomEvent("painted", { detail: { labels, slot, before } }));
  }

  // ------------------------------------------------------------------------------------------------------- drawing
  show(image, labels, prompts) {
    if (this.stroke || this.box) this.cancel();
    Object.assign(this, { image, labels, prompts });
    this.tint();
    this.draw();
  }

  // Compute the overlay; with two places and a radius, only around the line between them.
  tint(from, to, radius) {
    const { labels, width, height, view } = this;
    if (!labels) return;
    let left = 0, top = 0, right = width, bottom = height;
    const line = Math.max(1, Math.round(Math.min(width, height) / 300));
    if (from) {
      const margin = radius + line + 2;
      left = clamp(Math.floor(Math.min(from.x, to.x) - margin), 0, width);
      right = clamp(Math.ceil(Math.max(from.x, to.x) + margin), 0, width);
      top = clamp(Math.floor(Math.min(from.y, to.y) - margin), 0, height);
      bottom = clamp(Math.ceil(Math.max(from.y, to.y) + margin), 0, height);
      if (right <= left || bottom <= top) return;
    }
    const pixels = new ImageData(right - left, bottom - top);
    const words = new Uint32Array(pixels.data.buffer);
    const fills = new Uint32Array(256);
    const edges = new Uint32Array(256);
    const { slots } = labels;
    const fillAlpha = { tint: Math.round(view.opacity * 255), outline: 0, focus: 255, cutout: 255, matte: 255, none: 0 }[view.style];
    const outlined = view.style === "tint" || view.style === "outline";
    labels.ids.forEach((id, i) => {
      const object = view.objects.get(id);
      if (object?.hidden) return;
      const [r, g, b] = rgb(object?.colour ?? "#ffffff");
      fills[i + 1] = ((fillAlpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
      edges[i + 1] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    });
    for (let y = top; y < bottom; y++) {
      const up = y >= line ? -line * width : 0;
      const down = y < height - line ? line * width : 0;
      let out = (y - top) * (right - left);
      for (let at = y * width + left, end = y * width + right, x = left; at < end; at++, out++, x++) {
        const slot = slots[at];
        if (slot === 0) continue;
        const edge = outlined && (slots[at + up] !== slot || slots[at + down] !== slot
          || (x >= line && slots[at - line] !== slot) || (x < width - line && slots[at + line] !== slot));
        words[out] = edge ? edges[slot] : fills[slot];
      }
    }
    this.overlay.getContext("2d").putImageData(pixels, left, top);
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint() {
    const { context, ratio = 1, canvas, view } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = getComputedStyle(this.element).getPropertyValue("--canvas").trim() || "#0b0f14";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    context.setTransform(this.scale * ratio, 0, 0, this.scale * ratio, this.left * ratio, this.top * ratio);
    context.imageSmoothingEnabled = this.scale * ratio < CRISP;
    context.imageSmoothingQuality = "medium";
    this.paintFrame(context, view.style);
    context.setTransform(ratio, 0, 0, ratio, this.left * ratio, this.top * ratio);
    if (view.points) this.paintPrompts(context);
    if (this.asked) this.paintAsked(context);
    if (this.box) this.paintBox(context, this.box, view.objects.get(view.object)?.colour ?? "#fff", true);
    if (this.pointer && ["brush", "eraser"].includes(view.tool)) this.paintBrush(context);
    this.dispatchEvent(new Event("painted-frame"));
  }

  paintFrame(context, style) {
    const { width, height } = this;
    if (style === "tint" || style === "outline" || style === "none" || !this.labels) {
      context.drawImage(this.image, 0, 0, width, height);
      if (style !== "none" && this.labels) context.drawImage(this.overlay, 0, 0);
      return;
    }
    if (style === "matte") {
      context.fillStyle = "#000";
      context.fillRect(0, 0, width, height);
      context.drawImage(this.overlay, 0, 0);
      return;
    }
    const layer = this.layer.getContext("2d");
    layer.globalCompositeOperation = "copy";
    layer.drawImage(this.overlay, 0, 0);
    layer.globalCompositeOperation = "source-in";
    layer.drawImage(this.image, 0, 0, width, height);
    if (style === "focus") {
      context.filter = "grayscale(1) brightness(0.55)";
      context.drawImage(this.image, 0, 0, width, height);
      context.filter = "none";
    } else this.paintChecker(context);
    context.drawImage(this.layer, 0, 0);
  }

  paintChecker(context) {
    if (!this.checker) {
      const tile = new OffscreenCanvas(2 * CHECKER, 2 * CHECKER);
      const pen = tile.getContext("2d");
      pen.fillStyle = "#d7dbe0";
      pen.fillRect(0, 0, 2 * CHECKER, 2 * CHECKER);
      pen.fillStyle = "#aab1ba";
      pen.fillRect(0, 0, CHECKER, CHECKER);
      pen.fillRect(CHECKER, CHECKER, CHECKER, CHECKER);
      this.checker = context.createPattern(tile, "repeat");
    }
    this.checker.setTransform(new DOMMatrix().scale(1 / this.scale));
    context.fillStyle = this.checker;
    context.fillRect(0, 0, this.width, this.height);
  }

  paintPrompts(context) {
    for (const [id, prompt] of Object.entries(this.prompts ?? {})) {
      const object = this.view.objects.get(Number(id));
      if (object?.hidden) continue;
      const faint = Number(id) !== this.view.object;
      context.globalAlpha = faint ? 0.45 : 1;
      if (prompt.box) this.paintBox(context, prompt.box, object?.colour ?? "#fff", false);
      prompt.points.forEach(([x, y], i) => this.paintPoint(context, x * this.scale, y * this.scale, prompt.labels[i]));
      context.globalAlpha = 1;
    }
  }

  paintAsked(context) {
    const { points, labels, box } = this.asked;
    if (box) this.paintBox(context, box, this.view.objects.get(this.view.object)?.colour ?? "#fff", true);
    points?.forEach(([x, y], i) => this.paintPoint(context, x * this.scale, y * this.scale, labels[i]));
  }

  // Green with a plus adds, red with a minus subtracts: the sign tells them apart without the colour.
  paintPoint(context, x, y, label) {
    context.beginPath();
    context.arc(x, y, 7.5, 0, 2 * Math.PI);
    context.fillStyle = "#fff";
    context.fill();
    context.beginPath();
    context.arc(x, y, 6, 0, 2 * Math.PI);
    context.fillStyle = label ? "#12813a" : "#c8232b";
    context.fill();
    context.beginPath();
    context.moveTo(x - 3, y);
    context.lineTo(x + 3, y);
    if (label) {
      context.moveTo(x, y - 3);
      context.lineTo(x, y + 3);
    }
    context.strokeStyle = "#fff";
    context.lineWidth = 1.6;
    context.stroke();
  }

  paintBox(context, [x0, y0, x1, y1], colour, dashed) {
    const { scale } = this;
    const args = [x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale];
    context.setLineDash([]);
    context.strokeStyle = "rgba(0, 0, 0, 0.6)";
    context.lineWidth = 4;
    context.strokeRect(...args);
    if (dashed) context.setLineDash([6, 4]);
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.strokeRect(...args);
    context.setLineDash([]);
  }

  paintBrush(context) {
    const { x, y } = this.pointer;
    context.beginPath();
    context.arc(x * this.scale, y * this.scale, Math.max(2, (this.view.brush / 2) * this.scale), 0, 2 * Math.PI);
    context.lineWidth = 3;
    context.strokeStyle = "rgba(0, 0, 0, 0.55)";
    context.stroke();
    context.lineWidth = 1.5;
    context.strokeStyle = this.view.tool === "eraser" ? "#fff" : this.view.objects.get(this.view.object)?.colour ?? "#fff";
    context.stroke();
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.pending);
  }
}
