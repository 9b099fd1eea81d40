// The bars around the frame: title and commands, tools, objects, transport. They show the editor's state.

import { button, el, icon, plural, recall, remember, setIcon } from "./dom.js";
import { chooseFiles, helpDialog } from "./dialogs.js";

export const STYLES = [["tint", "Tint and outline"], ["outline", "Outline only"], ["focus", "Objects in colour"],
  ["cutout", "Cut-out preview"], ["matte", "Matte"], ["none", "No masks"]];
const TOOLS = [["point", "Click and box", "C"], ["brush", "Brush", "B"], ["eraser", "Eraser", "E"], ["pan", "Move", "M"]];

export function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember("theme", theme);
}

export function themeButton(changed = () => {}) {
  const name = () => (document.documentElement.dataset.theme === "dark" ? "sun" : "moon");
  const node = button(name(), "Light or dark", () => {
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    setIcon(node, name());
    changed();
  });
  return node;
}

export function startTheme() {
  const light = matchMedia("(prefers-color-scheme: light)").matches;
  setTheme(recall("theme", light ? "light" : "dark"));
}

export function bars(editor) {
  const parts = [topBar(editor), toolBar(editor), sidePanel(editor), transport(editor)];
  const notice = noticeBar(editor);
  const main = el("main", { class: "workspace" }, parts[1].element, el("div", { class: "stage" }, notice.element, editor.viewer.element),
    parts[2].element);
  const all = [...parts, notice];
  return {
    elements: [parts[0].element, main, parts[3].element],
    update: () => all.forEach((part) => part.update?.()),
    frame: () => all.forEach((part) => part.frame?.()),
    job: () => all.forEach((part) => part.job?.()),
  };
}

// ---------------------------------------------------------------------------------------------------------------- top
function topBar(editor) {
  const state = el("span", { class: "saved", role: "status" });
  const undo = button("undo", "Undo", () => editor.step("undo"), { key: "Ctrl+Z" });
  const redo = button("redo", "Redo", () => editor.step("redo"), { key: "Ctrl+Shift+Z" });
  const size = `${editor.width}×${editor.height}, ${plural(editor.count, "frame")}`;
  const element = el("header", { class: "top" },
    el("a", { class: "button", href: "/?list=1", title: "All videos" }, icon("videos"), el("span", {}, "Videos")),
    el("h1", { title: editor.name }, editor.name), el("span", { class: "muted size" }, size), state,
    el("div", { class: "grow" }), undo, redo, el("div", { class: "divider" }),
    button("upload", "Import masks or annotations", () => chooseFiles(".png,.json,.xml", (files) => editor.import(files)), { text: "Import" }),
    button("download", "Export", () => editor.export(), { key: "Ctrl+E", text: "Export", kind: "primary" }),
    el("div", { class: "divider" }), themeButton(() => editor.refresh()), button("help", "Help and keys", () => helpDialog(), { key: "?" }));
  const update = () => {
    undo.disabled = redo.disabled = Boolean(editor.job);
    state.textContent = !editor.online ? "Not connected: trying again…" : editor.job ? "Tracking…"
      : editor.prompter.available === null ? "Loading the model for clicks…" : "All changes saved";
    state.classList.toggle("warning", !editor.online);
  };
  return { element, update, job: update };
}

function noticeBar(editor) {
  const text = el("span");
  const element = el("div", { class: "notice", role: "note", hidden: true }, text);
  const update = () => {
    element.hidden = editor.prompter.available !== false;
    text.textContent = editor.prompter.reason ?? "";
  };
  return { element, update };
}

// -------------------------------------------------------------------------------------------------------------- tools
function toolBar(editor) {
  const tools = TOOLS.map(([name, label, key]) => [name, button(name, label, () => editor.setTool(name), { key })]);
  const element = el("nav", { class: "tools", "aria-label": "Tools" }, ...tools.map(([, node]) => node),
    el("div", { class: "divider" }), button("fit", "Fit to window", () => editor.viewer.fit(), { key: "F" }),
    button("clear", "Clear the object on this frame", () => editor.clearObject(), { key: "Delete" }));
  const update = () => {
    for (const [name, node] of tools) node.setAttribute("aria-pressed", String(editor.view.tool === name));
    editor.viewer.canvas.dataset.tool = editor.view.tool;
  };
  return { element, update };
}

// --------------------------------------------------------------------------------------------------------------- side
function sidePanel(editor) {
  const parts = [frameSection(editor), objectSection(editor), viewSection(editor)];
  return {
    element: el("aside", { class: "side", "aria-label": "Objects and display" }, ...parts.map((part) => part.element)),
    update: () => parts.forEach((part) => part.update?.()),
    frame: () => parts.forEach((part) => part.frame?.()),
    job: () => parts.forEach((part) => part.job?.()),
  };
}

function objectSection(editor) {
  const list = el("ul", { class: "objects" });
  const empty = el("p", { class: "hint" }, "No objects yet. Press N, or click on something in the frame.");
  const element = el("section", { class: "fill" },
    el("div", { class: "heading" }, el("h2", {}, "Objects"), button("add", "Add an object", () => editor.addObject(), { key: "N", text: "Add" })),
    list, empty);
  const rows = new Map();
  const update = () => {
    const ids = [...editor.objects.keys()];
    for (const id of [...rows.keys()]) {
      if (!editor.objects.has(id)) {
        rows.get(id).element.remove();
        rows.delete(id);
      }
    }
    ids.forEach((id, i) => {
      if (!rows.has(id)) {
        rows.set(id, objectRow(editor, id));
        list.append(rows.get(id).element);
      }
      rows.get(id).update(i);
    });
    empty.hidden = ids.length > 0;
  };
  return { element, update, frame: () => rows.forEach((row) => row.frame()) };
}

function objectRow(editor, id) {
  const object = () => editor.objects.get(id);
  const colour = el("input", { type: "color", class: "swatch", on: { change: () => editor.describe(id, { colour: colour.value }) } });
  const number = el("kbd");
  const name = el("input", { class: "name", maxlength: "100", spellcheck: "false", on: {
    change: () => (name.value.trim() ? editor.describe(id, { name: name.value.trim() }) : (name.value = object().name)),
    focus: () => editor.select(id),
    keydown: (event) => {
      if (event.key === "Escape") name.value = object().name;
      if (event.key === "Enter" || event.key === "Escape") name.blur();
    },
  } });
  const score = el("span", { class: "score" });
  const hide = button("eye", "Hide", () => editor.describe(id, { hidden: !object().hidden }), { kind: "small" });
  const guard = button("unlock", "Protect", () => editor.describe(id, { guarded: !object().guarded }), { kind: "small" });
  const remove = button("trash", "Remove", () => editor.removeObject(id), { kind: "small" });
  const pick = el("button", { type: "button", class: "pick", on: { click: () => editor.select(id) } }, number);
  const element = el("li", { class: "object", on: { click: (event) => event.target === element && editor.select(id) } },
    pick, colour, name, score, el("div", { class: "actions" }, hide, guard, remove));
  const frame = () => {
    const value = editor.status.presence[id]?.[editor.frame];
    const known = value !== undefined && value !== null && value >= 0;
    score.textContent = known ? `${Math.round(100 * value)} %` : "–";
    score.title = known ? "Confidence that the object is visible on this frame" : "Not tracked on this frame";
    score.classList.toggle("warning", known && value < 0.5);
  };
  const update = (place) => {
    const { hidden, guarded, name: title } = object();
    const active = editor.view.object === id;
    element.classList.toggle("active", active);
    pick.setAttribute("aria-pressed", String(active));
    pick.setAttribute("aria-label", `Select ${title}`);
    number.textContent = place < 9 ? String(place + 1) : "·";
    colour.value = object().colour;
    colour.setAttribute("aria-label", `Colour of ${title}`);
    if (document.activeElement !== name) name.value = title;
    name.setAttribute("aria-label", `Name of object ${id}`);
    relabel(hide, hidden ? "eyeOff" : "eye", hidden ? `Show ${title}` : `Hide ${title}`);
    relabel(guard, guarded ? "lock" : "unlock", guarded ? `Allow changes of ${title}` : `Protect ${title} against changes`);
    relabel(remove, "trash", `Remove ${title} from the video`);
    hide.classList.toggle("on", hidden);
    guard.classList.toggle("on", guarded);
    frame();
  };
  return { element, update, frame };
}

function relabel(node, name, label) {
  setIcon(node, name);
  node.title = label;
  node.setAttribute("aria-label", label);
}

function frameSection(editor) {
  const states = el("span", { class: "badges" });
  const lock = button("check", "Approve this frame: tracking never changes it", () => editor.approve(), { key: "A", text: "Approve frame" });
  const range = button("check", "Approve or unlock all frames of the range", () => editor.approveRange(!editor.rangeApproved()), { text: "Approve range" });
  const element = el("section", {}, el("div", { class: "heading" }, el("h2", {}, "Frame"), states),
    el("div", { class: "row" }, lock, range));
  const frame = () => {
    const found = editor.statesOf(editor.frame);
    states.replaceChildren(...(found.length ? found : ["not tracked"]).map((text) => el("span", { class: `badge ${text.replace(" ", "-")}` }, text)));
    const locked = found.includes("approved");
    lock.querySelector("span").textContent = locked ? "Unlock frame" : "Approve frame";
    setIcon(lock, locked ? "unlock" : "check");
    const locks = !editor.rangeApproved();
    range.querySelector("span").textContent = locks ? "Approve range" : "Unlock range";
    setIcon(range, locks ? "check" : "unlock");
    lock.disabled = range.disabled = Boolean(editor.job);
    range.hidden = editor.range.start === null && editor.range.stop === null;
  };
  return { element, update: frame, frame, job: frame };
}

function viewSection(editor) {
  const { view } = editor;
  const style = el("select", { id: "style", on: { change: () => editor.setView({ style: style.value }) } },
    ...STYLES.map(([value, text]) => el("option", { value }, text)));
  const opacity = slider("opacity", 0, 100, 5, (value) => editor.setView({ opacity: value / 100 }));
  const brush = slider("brush", 1, 200, 1, (value) => editor.setBrush(value));
  const points = el("input", { type: "checkbox", id: "points", on: { change: () => editor.setView({ points: points.checked }) } });
  const follow = el("input", { type: "checkbox", id: "follow", on: { change: () => editor.setView({ follow: follow.checked }) } });
  const element = el("section", {}, el("div", { class: "heading" }, el("h2", {}, "Display")),
    el("div", { class: "field" }, el("label", { for: "style" }, "Masks"), style),
    el("div", { class: "field" }, el("label", { for: "opacity" }, "Opacity"), opacity.element),
    el("div", { class: "field" }, el("label", { for: "brush" }, "Brush size"), brush.element),
    el("div", { class: "field" }, el("label", { for: "points" }, "Show prompts"), points),
    el("div", { class: "field" }, el("label", { for: "follow" }, "Follow tracking"), follow));
  const update = () => {
    style.value = view.style;
    opacity.set(Math.round(100 * view.opacity), `${Math.round(100 * view.opacity)} %`);
    brush.set(view.brush, `${view.brush} px`);
    points.checked = view.points;
    follow.checked = view.follow;
  };
  return { element, update };
}

function slider(id, min, max, step, run) {
  const input = el("input", { type: "range", id, min: String(min), max: String(max), step: String(step), on: { input: () => run(Number(input.value)) } });
  const text = el("output", { for: id });
  return { element: el("div", { class: "slider" }, input, text), set: (value, shown) => {
    input.value = String(value);
    text.textContent = shown;
  } };
}

// ---------------------------------------------------------------------------------------------------------- transport
function transport(editor) {
  const play = button("play", "Play", () => editor.togglePlay(), { key: "Space" });
  const place = el("input", { type: "number", class: "place", min: "0", "aria-label": "Frame number", on: {
    change: () => editor.seek(Number(place.value) || 0),
    keydown: (event) => event.key === "Enter" && place.blur(),
  } });
  const of = el("span", { class: "muted" });
  const time = el("span", { class: "muted time" });
  const starts = [
    button("backward", "Track backward from this frame", () => editor.track("backward"), { key: "R", text: "Back" }),
    button("both", "Track in both directions", () => editor.track("both"), { key: "Y", text: "Both" }),
    button("forward", "Track forward from this frame", () => editor.track("forward"), { key: "T", text: "Track", kind: "primary" }),
  ];
  const stop = button("stop", "Stop tracking", () => editor.stop(), { key: "Esc", text: "Stop", kind: "danger" });
  const bar = el("progress", { max: "1", "aria-label": "Tracking progress" });
  const text = el("span", { class: "muted progress-text" });
  const rangeText = el("span", { class: "muted" });
  const rangeClear = button("close", "Forget the range", () => editor.clearRange(), { key: "U", kind: "small" });
  const rangeBox = el("div", { class: "range" },
    button("range", "Range starts here", () => editor.setRange("start"), { key: "I", text: "In" }),
    button("range", "Range ends here", () => editor.setRange("stop"), { key: "O", text: "Out" }), rangeText, rangeClear);
  const controls = el("div", { class: "controls" },
    el("div", { class: "group" }, button("first", "First frame", () => editor.seek(0), { key: "Home" }),
      button("previous", "Previous frame", () => editor.seek(editor.frame - 1), { key: "←" }), play,
      button("next", "Next frame", () => editor.seek(editor.frame + 1), { key: "→" }),
      button("last", "Last frame", () => editor.seek(editor.count - 1), { key: "End" })),
    el("div", { class: "group" }, place, of, time),
    el("div", { class: "group" }, button("previousPrompt", "Previous prompt", () => editor.jumpPrompt(-1), { key: "↑" }),
      button("nextPrompt", "Next prompt", () => editor.jumpPrompt(1), { key: "↓" }),
      button("lowest", "Lowest confidence", () => editor.jumpLowest(), { key: "G" })),
    rangeBox, el("div", { class: "grow" }), bar, text, ...starts, stop);
  const element = el("footer", { class: "bottom" }, controls, editor.timeline.element, legend());
  const frame = () => {
    if (document.activeElement !== place) place.value = String(editor.frame);
    place.max = String(editor.count - 1);
    of.textContent = `/ ${editor.count - 1}`;
    time.textContent = clock(editor.frame / editor.fps);
  };
  const job = () => {
    const running = editor.job;
    stop.hidden = bar.hidden = text.hidden = !running;
    for (const node of starts) {
      node.hidden = Boolean(running);
      node.disabled = editor.objects.size === 0;
    }
    if (!running) return;
    bar.value = running.total ? running.done / running.total : 0;
    const rate = running.seconds > 0 ? running.done / running.seconds : 0;
    const left = rate ? (running.total - running.done) / rate : 0;
    text.textContent = running.done === 0 ? "Preparing…" : `${running.done} of ${running.total} · ${rate.toFixed(1)} frames/s · ${Math.ceil(left)} s left`;
  };
  const update = () => {
    setIcon(play, editor.playing ? "pause" : "play");
    const { start, stop: end } = editor.range;
    const ranged = start !== null || end !== null;
    rangeText.textContent = ranged ? `${start ?? 0} to ${end ?? editor.count - 1}` : "";
    rangeClear.hidden = !ranged;
    frame();
    job();
  };
  return { element, update, frame, job };
}

function legend() {
  const items = [["prompted", "Prompted"], ["tracked", "Tracked"], ["stale", "Stale: track again"], ["approved", "Approved"], ["absent", "Uncertain"]];
  return el("ul", { class: "legend", "aria-label": "Legend of the timeline" },
    ...items.map(([name, text]) => el("li", {}, el("span", { class: `key ${name}` }), text)));
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}.${Math.floor((seconds % 1) * 10)}`;
}
