// Dialogs: export, help, and the choice of files.

import { fetchJson } from "./connection.js";
import { button, el, plural, recall, remember, toast } from "./dom.js";

const KEYS = [
  ["Moving", [["Space", "Play or pause"], ["← →", "Previous or next frame; with Shift 10 frames"], ["Home End", "First or last frame"],
    ["↑ ↓", "Previous or next prompt"], ["G", "Frame of lowest confidence"]]],
  ["Masks", [["C", "Click tool: click adds, right or Alt click subtracts, drag makes a box"], ["B", "Brush; right button erases"],
    ["E", "Eraser"], ["[ ]", "Brush size; also Shift and wheel"], ["Delete", "Clear the object on this frame"],
    ["Ctrl+Z", "Undo; Ctrl+Shift+Z redoes"]]],
  ["Objects", [["N", "Add an object"], ["1 to 9", "Select an object"], ["H", "Hide or show the object"], ["Shift+Delete", "Remove the object from the video"]]],
  ["Tracking", [["T", "Track forward from this frame"], ["R", "Track backward from this frame"], ["Y", "Track both ways"],
    ["Esc", "Stop tracking; drop a stroke"], ["I O", "Range starts or ends here"], ["U", "Forget the range"], ["A", "Approve this frame, or unlock it"]]],
  ["View", [["Wheel", "Zoom"], ["Middle-button", "Move the frame; also the tool M"], ["F", "Fit to window"], ["V", "Masks on or off"], ["X", "Cut-out preview"],
    ["P", "Prompts on or off"], ["Ctrl+E", "Export"], ["?", "This help"]]],
];

const FORMATS = {
  davis: ["DAVIS", "Indexed PNG for each frame, as for evaluation"],
  binary: ["Binary masks", "Black and white PNG for each object and frame"],
  coco: ["COCO", "Instances as JSON, with track ids"],
  youtubevis: ["YouTube-VIS", "Tracks as JSON"],
  yolo: ["YOLO", "Segmentation labels and images"],
  cvat: ["CVAT", "CVAT for video 1.1, XML"],
  labelstudio: ["Label Studio", "Brush masks as JSON"],
  rgba: ["Cut-outs", "Objects on transparent background"],
  overlay: ["Overlay video", "MP4 with the masks drawn over the video, sound kept"],
  csv: ["Table", "Boxes, areas and scores by frame, CSV"],
};
const VIDEO_STYLES = [["", "Tint and outline"], ["contour", "Outline only"], ["popup", "Objects in colour"], ["matte", "Matte"]];
const EFFECTS = [["", "None"], ["blur", "Blur objects"], ["pixelate", "Pixelate objects"], ["cutout", "Objects only"]];
const CONTAINERS = [["png", "PNG images"], ["mov", "ProRes 4444 (.mov)"], ["webm", "VP9 (.webm)"]];

export function openDialog(title, content, actions = []) {
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" });
  // The close event comes a task later: a dialog opened at once would meet this one's fields in the page.
  const close = () => { dialog.close(); dialog.remove(); };
  dialog.append(
    el("div", { class: "dialog-head" }, el("h2", { id: "dialog-title" }, title), button("close", "Close", close, { key: "Esc" })),
    el("div", { class: "dialog-body" }, content));
  if (actions.length) dialog.append(el("div", { class: "dialog-foot" }, ...actions));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export function helpDialog() {
  const table = ([title, rows]) => el("section", {}, el("h3", {}, title), el("table", {}, el("tbody", {},
    ...rows.map(([keys, text]) => el("tr", {}, el("th", { scope: "row" }, ...keys.split(" ").map((key) => (["to"].includes(key) ? ` ${key} ` : el("kbd", {}, key.replace("-", " "))))),
      el("td", {}, text))))));
  openDialog("Keys", el("div", { class: "keys" },
    el("p", {}, "Mark an object on one frame, track it, look for frames where the mask is wrong, correct those, and track again. "
      + "A corrected frame is authoritative: only frames that depend on it become stale. Approved frames never change."),
    el("div", { class: "columns" }, ...KEYS.map(table))));
}

// ------------------------------------------------------------------------------------------------------------ export
function choice(id, label, options, value) {
  const select = el("select", { id }, ...options.map(([key, text]) => el("option", { value: key }, text)));
  select.value = value ?? options[0][0];
  return { select, element: el("div", { class: "field" }, el("label", { for: id }, label), select) };
}

export function exportDialog(editor) {
  const last = recall("export", {});
  const chosen = () => form.querySelector("input[name=format]:checked")?.value;
  const radios = editor.formats.map((name) => {
    const [title, text] = FORMATS[name] ?? [name, ""];
    const input = el("input", { type: "radio", name: "format", value: name, checked: name === (last.format ?? "coco"), on: { change: () => update() } });
    return el("label", { class: "format" }, input, el("span", {}, el("strong", {}, title), el("span", { class: "muted" }, text)));
  });
  const shapes = choice("shapes", "Shapes", [["", "Usual for the format"], ["masks", "Masks, exact"], ["polygons", "Polygons"]], last.shapes);
  const style = choice("video-style", "Style", VIDEO_STYLES, last.style);
  const effect = choice("effect", "Effect", EFFECTS, last.effect);
  const ids = el("input", { type: "checkbox", id: "ids", checked: last.ids ?? true });
  const trails = el("input", { type: "number", id: "trails", min: "0", max: "500", value: String(last.trails ?? 0) });
  const container = choice("container", "File", CONTAINERS, last.container);
  const idsField = el("div", { class: "field" }, el("label", { for: "ids" }, "Show ids"), ids);
  const trailsField = el("div", { class: "field" }, el("label", { for: "trails" }, "Trail, frames"), trails);
  const objects = [...editor.objects.values()].map((object) => {
    const input = el("input", { type: "checkbox", value: String(object.id), checked: true });
    return { input, element: el("label", { class: "check" }, input, object.name) };
  });
  const options = el("div", { class: "options" }, shapes.element, style.element, effect.element, idsField, trailsField, container.element);
  const stale = editor.status.stale.reduce((sum, [start, stop]) => sum + stop - start + 1, 0);
  const warning = el("p", { class: "hint warning", hidden: !stale }, `${plural(stale, "frame")} ${stale === 1 ? "is" : "are"} stale: `
    + "corrections have not been tracked there yet.");
  const result = el("p", { class: "hint", role: "status" });
  const form = el("form", { class: "export", on: { submit: (event) => event.preventDefault() } },
    el("fieldset", { class: "formats" }, el("legend", {}, "Format"), ...radios),
    el("div", {}, el("fieldset", {}, el("legend", {}, "Objects"), ...objects.map((object) => object.element),
      objects.length ? null : el("p", { class: "hint" }, "There is no object to export yet.")),
      el("fieldset", {}, el("legend", {}, "Options"), options), warning, result));
  const run = button("download", "Export and download", async () => {
    const wanted = objects.filter(({ input }) => input.checked).map(({ input }) => Number(input.value));
    const format = chosen();
    if (!wanted.length) return void (result.textContent = "Choose at least one object.");
    const fields = { format, objects: wanted.length === objects.length ? [] : wanted };
    if (["coco", "cvat"].includes(format) && shapes.select.value) fields.shapes = shapes.select.value;
    if (format === "overlay") {
      if (style.select.value) fields.style = style.select.value;
      if (effect.select.value) fields.effect = effect.select.value;
      else fields.ids = ids.checked;
      fields.trails = Number(trails.value) || 0;
    }
    if (format === "rgba") fields.container = container.select.value;
    remember("export", { format, shapes: shapes.select.value, style: style.select.value, effect: effect.select.value,
      ids: ids.checked, trails: Number(trails.value) || 0, container: container.select.value });
    run.disabled = true;
    result.classList.remove("warning");
    result.textContent = "Writing…";
    try {
      const answer = await editor.connection.ask("export", fields);
      result.textContent = `${plural(answer.files, "file")} in ${answer.folder}`;
      el("a", { href: answer.url, download: answer.name }).click();
    } catch (error) {
      result.classList.add("warning");
      result.textContent = error.message;
    }
    run.disabled = false;
  }, { text: "Export", kind: "primary" });
  const update = () => {
    const format = chosen();
    shapes.element.hidden = !["coco", "cvat"].includes(format);
    for (const node of [style.element, effect.element, idsField, trailsField]) node.hidden = format !== "overlay";
    container.element.hidden = format !== "rgba";
    options.parentElement.hidden = ![...options.children].some((node) => !node.hidden);
  };
  run.disabled = objects.length === 0;
  openDialog("Export", form, [run]);
  update();
}

// ------------------------------------------------------------------------------------------------------------- files
export function chooseFiles(accept, run) {
  const input = el("input", { type: "file", accept, multiple: true, on: { change: () => input.files.length && run([...input.files]) } });
  input.click();
}

// Masks named after frames (a file of another name belongs to the current frame), COCO .json and CVAT .xml.
export async function importFiles(editor, files) {
  let frames = 0;
  for (const file of files) {
    try {
      const query = new URLSearchParams({ name: file.name, frame: String(editor.frame) });
      const answer = await fetchJson(`/api/videos/${editor.id}/import?${query}`, { method: "POST", body: file });
      frames += answer.frames;
    } catch (error) {
      toast(error.message, "error");
      break;
    }
  }
  if (frames) toast(`Imported masks on ${plural(frames, "frame")}.`);
}

export function isAnnotation(file) {
  return /\.(png|json|xml)$/i.test(file.name);
}

export async function uploadVideo(file, limit, progress) {
  if (file.size > limit) throw new Error(`${file.name}: ${(file.size / 2 ** 20).toFixed(0)} MiB, more than the limit of ${(limit / 2 ** 20).toFixed(0)} MiB (--max-upload).`);
  const query = new URLSearchParams({ name: file.name });
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/upload?${query}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onerror = () => reject(new Error(`${file.name}: the upload was cut off.`));
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { answer = { error: request.responseText.trim() }; }
      if (request.status === 200) resolve(answer);
      else reject(new Error(answer.error || `The program answered ${request.status}.`));
    };
    request.send(file);
  });
}
