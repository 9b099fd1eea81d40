// The editor of one video: state, commands and keys. Drawing is in canvas.js and timeline.js, panels in panels.js.

import { Viewer } from "./canvas.js";
import { Connection } from "./connection.js";
import { exportDialog, helpDialog, importFiles } from "./dialogs.js";
import { clamp, el, recall, remember, toast } from "./dom.js";
import { Frames } from "./frames.js";
import { bars } from "./panels.js";
import { decodeRuns, encodeMask, fromBase64, toBase64 } from "./runs.js";
import { Timeline } from "./timeline.js";

const COLOURS = ["#ff5848", "#38a8ff", "#58d65c", "#ffce36", "#c46eff", "#30dcd0", "#ff8c28", "#ff78be", "#a6e028",
  "#6e7eff", "#dea878", "#00bc8c"];
const LARGEST_BRUSH = 400;
const FALLBACK_FPS = 24;
const PAUSE = 100; // milliseconds on a frame after which the server prepares it for clicks

export class Editor {
  constructor(video, root) {
    this.id = video;
    this.root = root;
    this.objects = new Map();
    this.range = { start: null, stop: null };
    this.job = null;
    this.playing = false;
    this.frame = 0;
    this.started = performance.now();
    const saved = recall("view", {});
    this.view = {
      tool: "point", object: null, objects: this.objects, points: saved.points ?? true, style: saved.style ?? "tint",
      opacity: saved.opacity ?? 0.45, brush: saved.brush ?? 24, follow: true, editable: () => this.editable(),
    };
    root.replaceChildren(el("div", { class: "loading", role: "status" }, el("div", { class: "spinner" }),
      el("p", {}, "Opening the video…")));
    this.connection = new Connection(video);
    this.connection.addEventListener("state", ({ detail }) => this.open(detail));
    this.connection.addEventListener("status", ({ detail }) => this.update(detail));
    this.connection.addEventListener("progress", ({ detail }) => this.progress(detail));
    this.connection.addEventListener("finished", ({ detail }) => this.finished(detail));
    this.connection.addEventListener("failed", ({ detail }) => this.failed(detail));
    this.connection.addEventListener("prompter", ({ detail }) => this.setPrompter(detail.prompter));
    this.connection.addEventListener("offline", () => this.setOnline(false));
    this.connection.addEventListener("online", () => this.setOnline(true));
    this.onKey = (event) => this.key(event);
    this.onKeyUp = (event) => { if (event.key === "Alt") event.preventDefault(); };
    window.addEventListener("keydown", this.onKey);
    window.addEventListener("keyup", this.onKeyUp);
  }

  close() {
    this.pause();
    this.connection.close();
    this.frames?.close();
    this.viewer?.close();
    this.timeline?.close();
    window.removeEventListener("keydown", this.onKey);
    window.removeEventListener("keyup", this.onKeyUp);
  }

  // --------------------------------------------------------------------------------------------------------- state
  // The complete state, which the server sends at the start and after each lost connection.
  open(state) {
    const first = !this.frames;
    Object.assign(this, { name: state.name, count: state.frames, width: state.width, height: state.height,
      fps: state.fps ?? FALLBACK_FPS, prompter: state.prompter, formats: state.formats, model: state.model });
    if (first) {
      this.frames = new Frames(this.id, this.width, this.height, this.count);
      this.status = state.status;
      this.setObjects(state.status.objects);
      this.viewer = new Viewer(this.view, this.width, this.height);
      this.timeline = new Timeline(this);
      this.listen();
      this.bars = bars(this);
      this.root.replaceChildren(...this.bars.elements);
      this.frame = clamp(state.frame ?? 0, 0, this.count - 1);
      document.title = `${this.name} · cutie-geo`;
    } else this.frames.changed();
    this.job = state.job;
    this.online = true;
    this.update({ status: state.status });
    this.show(this.frame);
  }

  listen() {
    const { viewer, timeline } = this;
    viewer.addEventListener("press", () => this.pause());
    viewer.addEventListener("point", ({ detail }) => this.addPoint(detail));
    viewer.addEventListener("box", ({ detail }) => this.addBox(detail));
    viewer.addEventListener("painted", ({ detail }) => this.painted(detail));
    viewer.addEventListener("brushsize", ({ detail }) => this.setBrush(this.view.brush * detail));
    timeline.addEventListener("seek", ({ detail }) => this.seek(detail));
  }

  setObjects(objects) {
    this.objects.clear();
    for (const object of objects) this.objects.set(object.id, object);
    if (!this.objects.has(this.view.object)) this.view.object = objects[0]?.id ?? null;
  }

  // A new status; `changed` has the frames whose masks differ, null for all, and is missing for none.
  update({ status, changed }) {
    this.status = status;
    this.setObjects(status.objects);
    if (changed !== undefined) {
      this.frames.changed(changed);
      if (changed === null || changed.includes(this.frame)) this.show(this.frame);
    }
    this.refresh();
  }

  refresh() {
    if (!this.bars) return;
    this.bars.update();
    this.timeline.draw();
    this.viewer.prompts = this.status.prompts[this.frame] ?? {};
    this.viewer.tint();
    this.viewer.draw();
  }

  // True if the first frame of the range is approved, so that the range is to be unlocked.
  rangeApproved() {
    return this.statesOf(this.range.start ?? 0).includes("approved");
  }

  setPrompter(prompter) {
    this.prompter = prompter;
    this.bars?.update();
  }

  setOnline(online) {
    this.online = online;
    if (!online && !this.bars) {
      this.root.querySelector(".loading p")?.replaceChildren("Waiting for the program…");
    }
    this.bars?.update();
  }

  statesOf(index) {
    const within = (ranges) => ranges.some(([start, stop]) => index >= start && index <= stop);
    const { status } = this;
    const found = [];
    if (status.prompts[index]) found.push("prompted");
    if (within(status.locked)) found.push("approved");
    if (within(status.stale)) found.push("stale");
    else if (within(status.tracked) && !status.prompts[index]) found.push("tracked");
    return found;
  }

  // -------------------------------------------------------------------------------------------------------- frames
  seek(index, { keepPlaying = false } = {}) {
    if (!keepPlaying) this.pause();
    const frame = clamp(Math.round(index), 0, this.count - 1);
    if (frame === this.frame) return Promise.resolve();
    return this.show(frame);
  }

  async show(index) {
    if (index !== this.frame) this.viewer.asked = null;
    this.frame = index;
    const started = performance.now();
    this.bars.frame();
    this.timeline.draw();
    this.prefetch();
    try {
      const [image, labels] = await Promise.all([this.frames.image(index), this.frames.mask(index)]);
      if (this.frame !== index) return;
      this.viewer.show(image, labels, this.status.prompts[index] ?? {});
      this.shown = { frame: index, milliseconds: performance.now() - started };
      this.firstShown ??= performance.now();
      this.bars.frame();
      this.rememberFrame();
    } catch (error) {
      if (error.name !== "AbortError" && this.frame === index) toast(error.message, "error");
    }
  }

  prefetch() {
    this.frames.prefetch(this.frame, this.playing ? 12 : 4, this.playing ? 0 : 3);
  }

  rememberFrame() {
    clearTimeout(this.viewTimer);
    this.viewTimer = setTimeout(() => this.connection.ask("view", { frame: this.frame }).catch(() => {}), PAUSE);
  }

  togglePlay() {
    if (this.playing) this.pause();
    else this.play();
  }

  async play() {
    this.playing = true;
    this.bars.update();
    if (this.frame >= this.count - 1) await this.show(0);
    let due = performance.now();
    while (this.playing && this.frame < this.count - 1) {
      due = Math.max(due + 1000 / this.fps, performance.now() - 50);
      await this.show(this.frame + 1);
      const wait = due - performance.now();
      await new Promise((resolve) => (wait > 4 ? setTimeout(resolve, wait) : requestAnimationFrame(resolve)));
    }
    this.pause();
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.bars?.update();
  }

  jumpPrompt(step) {
    const frames = Object.keys(this.status.prompts).map(Number).sort((a, b) => a - b);
    const found = step > 0 ? frames.find((frame) => frame > this.frame) : frames.findLast((frame) => frame < this.frame);
    if (found === undefined) toast(step > 0 ? "No prompt after this frame." : "No prompt before this frame.");
    else this.seek(found);
  }

  // Lowest presence of the active object, or of all, among tracked frames that are not approved.
  jumpLowest() {
    const ids = this.view.object ? [this.view.object] : [...this.objects.keys()];
    let best = null;
    for (const id of ids) {
      (this.status.presence[id] ?? []).forEach((score, frame) => {
        const skip = score === null || score < 0 || this.status.prompts[frame] || this.statesOf(frame).includes("approved");
        if (!skip && (best === null || score < best.score)) best = { frame, score };
      });
    }
    if (best === null) toast("No tracked frame to compare yet.");
    else {
      this.seek(best.frame);
      toast(`Lowest confidence: ${Math.round(100 * best.score)} % on frame ${best.frame}.`);
    }
  }

  // --------------------------------------------------------------------------------------------------------- edits
  editable() {
    const object = this.objects.get(this.view.object);
    if (this.job) return this.refuse("Tracking is running. Stop it (Esc) to change masks.");
    if (!object) return this.refuse("Add an object first (N).");
    if (object.guarded) return this.refuse(`${object.name} is protected. Open its lock in the list to change it.`);
    if (object.hidden) return this.refuse(`${object.name} is hidden. Show it (H) to change it.`);
    if (this.statesOf(this.frame).includes("approved")) {
      return this.refuse("This frame is approved. Unlock it (A) to change it.");
    }
    return true;
  }

  refuse(text) {
    toast(text);
    return false;
  }

  async ask(kind, fields) {
    try {
      const answer = await this.connection.ask(kind, fields);
      if (answer.labels !== undefined) {
        const labels = decodeRuns(fromBase64(answer.labels));
        this.frames.setMask(answer.frame, labels);
        if (answer.frame === this.frame && !this.viewer.stroke) this.viewer.labels = labels; // the next stroke goes on
      }
      if (answer.status) this.update(answer);
      return answer;
    } catch (error) {
      toast(error.message, "error");
      return null;
    }
  }

  addPoint({ point, label }) {
    return this.prompt({ points: [point], labels: [label] });
  }

  addBox(box) {
    return this.prompt({ box });
  }

  // The point or box is shown at once, and its mask when the answer comes.
  async prompt(fields) {
    if (!(await this.ensureObject()) || !this.editable()) return;
    this.viewer.asked = fields;
    this.viewer.draw();
    this.frames.prefetch(this.frame, 0, 0); // other frames wait, so that the mask comes sooner
    await this.ask("prompt", { frame: this.frame, object: this.view.object, ...fields });
    if (this.viewer.asked === fields) this.viewer.asked = null;
    this.viewer.draw();
    this.prefetch();
  }

  async painted({ labels, slot, before }) {
    const { frame } = this;
    const mask = toBase64(encodeMask(labels, slot, this.view.object));
    const answer = await this.ask("setmask", { frame, object: this.view.object, mask });
    if (!answer && this.frame === frame) {
      this.viewer.labels = before;
      this.refresh();
    }
  }

  async ensureObject() {
    return this.view.object !== null || this.addObject();
  }

  async addObject() {
    const id = Math.max(0, ...this.objects.keys()) + 1;
    const answer = await this.ask("describe", { object: id, name: `object ${id}`, colour: COLOURS[(id - 1) % COLOURS.length] });
    if (!answer) return false;
    this.select(id);
    return true;
  }

  select(id) {
    if (!this.objects.has(id)) return;
    this.view.object = id;
    this.refresh();
  }

  describe(id, fields) {
    return this.ask("describe", { object: id, ...fields });
  }

  clearObject() {
    if (this.editable()) this.ask("clear", { frame: this.frame, object: this.view.object });
  }

  removeObject(id = this.view.object) {
    const object = this.objects.get(id);
    if (!object) return;
    if (this.job) return this.refuse("Tracking is running. Stop it (Esc) to change masks.");
    if (object.guarded) return this.refuse(`${object.name} is protected. Open its lock in the list to remove it.`);
    this.ask("remove", { object: id }).then((answer) => answer && toast(`${object.name} removed. Ctrl+Z brings it back.`));
  }

  // Undo or redo, and show the frame that it changed.
  async step(kind) {
    const answer = await this.ask(kind, {});
    if (answer && answer.at !== null && answer.at !== undefined) this.seek(answer.at);
  }

  approve() {
    const locked = !this.statesOf(this.frame).includes("approved");
    return this.ask("approve", { start: this.frame, stop: this.frame, locked });
  }

  approveRange(locked) {
    const { start, stop } = this.range;
    return this.ask("approve", { start: start ?? 0, stop: stop ?? this.count - 1, locked });
  }

  // ------------------------------------------------------------------------------------------------------ tracking
  async track(direction) {
    if (this.job) return;
    this.pause();
    const { start, stop } = this.range;
    const ranged = start !== null || stop !== null;
    const low = start ?? 0;
    const high = stop ?? this.count - 1;
    const place = clamp(this.frame, low, high);
    const limits = {
      forward: { start: place, stop: high },
      backward: { start: low, stop: place },
      both: { start: low, stop: high },
    }[direction];
    const answer = await this.ask("track", { direction, ...limits });
    if (answer && ranged) toast(`Tracking within frames ${limits.start} to ${limits.stop}.`);
  }

  async stop() {
    if (this.job) await this.ask("stop", {});
  }

  progress({ job, frame, scores }) {
    this.job = job;
    if (frame !== undefined) {
      for (const [id, frames] of Object.entries(scores)) {
        for (const [place, score] of Object.entries(frames)) (this.status.presence[id] ??= [])[place] = score;
      }
      addFrame(this.status.tracked, frame);
      this.frames.changed([frame]);
      if (this.view.follow && !this.playing && document.visibilityState === "visible") this.follow(frame);
      else if (frame === this.frame) this.show(frame);
    }
    this.bars.job();
    this.timeline.draw();
  }

  // Show tracked frames as they come, without waiting for the ones that are too fast to be seen.
  follow(frame) {
    this.followed = frame;
    if (this.following) return;
    this.following = this.show(frame).finally(() => {
      this.following = null;
      if (this.followed !== frame && this.job) this.follow(this.followed);
    });
  }

  finished({ status, changed, stopped, frames, seconds }) {
    this.job = null;
    this.update({ status, changed });
    toast(stopped ? `Stopped after ${frames} frames. What is done stays.`
      : `Tracked ${frames} frames in ${seconds.toFixed(1)} s.`);
  }

  failed({ reason, status, fatal }) {
    this.job = null;
    if (fatal && !this.bars) {
      this.connection.close();
      this.root.replaceChildren(el("div", { class: "loading" }, el("p", {}, reason), el("a", { class: "button", href: "/?list=1" }, "All videos")));
      return;
    }
    if (status) this.update({ status, changed: null });
    toast(reason, "error");
    this.refresh();
  }

  setRange(side) {
    const other = side === "start" ? "stop" : "start";
    this.range[side] = this.range[side] === this.frame ? null : this.frame;
    const { start, stop } = this.range;
    if (start !== null && stop !== null && start > stop) this.range[other] = null;
    this.refresh();
  }

  clearRange() {
    this.range = { start: null, stop: null };
    this.refresh();
  }

  // ---------------------------------------------------------------------------------------------------------- view
  setView(changes) {
    Object.assign(this.view, changes);
    const { style, opacity, points, brush } = this.view;
    remember("view", { style, opacity, points, brush });
    this.refresh();
  }

  setTool(tool) {
    this.setView({ tool });
    this.viewer.canvas.dataset.tool = tool;
  }

  setBrush(size) {
    this.setView({ brush: clamp(Math.round(size), 1, LARGEST_BRUSH) });
  }

  hideObject() {
    const object = this.objects.get(this.view.object);
    if (object) this.describe(object.id, { hidden: !object.hidden });
  }

  export() {
    exportDialog(this);
  }

  import(files) {
    return importFiles(this, files);
  }

  // ---------------------------------------------------------------------------------------------------------- keys
  key(event) {
    const target = event.target;
    const typing = target instanceof HTMLElement && target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (!this.bars || document.querySelector("dialog[open]") || typing) return;
    const command = event.ctrlKey || event.metaKey;
    const run = command ? this.commandKey(event) : this.plainKey(event);
    if (!run) return;
    event.preventDefault();
    run();
  }

  commandKey(event) {
    const key = event.key.toLowerCase();
    if (key === "z") return () => this.step(event.shiftKey ? "redo" : "undo");
    if (key === "y") return () => this.step("redo");
    if (key === "e") return () => this.export();
    return null;
  }

  plainKey(event) {
    const onButton = event.target instanceof HTMLElement && event.target.matches("button, a, summary");
    const onRange = event.target instanceof HTMLElement && event.target.matches("input[type=range]");
    const far = event.shiftKey ? 10 : 1;
    if (onButton && (event.key === " " || event.key === "Enter")) return null;
    if (onRange && /^(Arrow|Home|End|Page)/.test(event.key)) return null;
    if (/^[1-9]$/.test(event.key)) return () => this.select([...this.objects.keys()][Number(event.key) - 1]);
    const table = {
      " ": () => this.togglePlay(),
      ArrowRight: () => this.seek(this.frame + far),
      ArrowLeft: () => this.seek(this.frame - far),
      ArrowDown: () => this.jumpPrompt(1),
      ArrowUp: () => this.jumpPrompt(-1),
      Home: () => this.seek(0),
      End: () => this.seek(this.count - 1),
      g: () => this.jumpLowest(),
      c: () => this.setTool("point"),
      b: () => this.setTool("brush"),
      e: () => this.setTool("eraser"),
      m: () => this.setTool("pan"),
      "[": () => this.setBrush(this.view.brush / 1.2 - 0.5),
      "]": () => this.setBrush(this.view.brush * 1.2 + 0.5),
      n: () => this.addObject(),
      h: () => this.hideObject(),
      Delete: () => (event.shiftKey ? this.removeObject() : this.clearObject()),
      Backspace: () => this.clearObject(),
      t: () => this.track("forward"),
      r: () => this.track("backward"),
      y: () => this.track("both"),
      a: () => this.approve(),
      i: () => this.setRange("start"),
      o: () => this.setRange("stop"),
      u: () => this.clearRange(),
      p: () => this.setView({ points: !this.view.points }),
      v: () => this.setView({ style: this.view.style === "none" ? this.styleBefore ?? "tint" : this.hideOverlay() }),
      x: () => this.setView({ style: this.view.style === "cutout" ? this.styleBefore ?? "tint" : this.cutOut() }),
      f: () => this.viewer.fit(),
      "+": () => this.viewer.zoom(1.25),
      "=": () => this.viewer.zoom(1.25),
      "-": () => this.viewer.zoom(0.8),
      "?": () => helpDialog(),
      Escape: () => this.viewer.cancel() || this.stop(),
    };
    return table[event.key] ?? table[event.key.toLowerCase()] ?? null;
  }

  hideOverlay() {
    this.styleBefore = this.view.style;
    return "none";
  }

  cutOut() {
    this.styleBefore = this.view.style === "none" ? "tint" : this.view.style;
    return "cutout";
  }
}

function addFrame(ranges, frame) {
  const before = ranges.find(([start, stop]) => frame >= start && frame <= stop + 1);
  if (before) before[1] = Math.max(before[1], frame);
  else {
    const after = ranges.find(([start]) => start === frame + 1);
    if (after) after[0] = frame;
    else ranges.push([frame, frame]);
  }
}
