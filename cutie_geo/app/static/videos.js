// The list of videos, and uploads.

import { fetchJson } from "./connection.js";
import { chooseFiles, helpDialog, uploadVideo } from "./dialogs.js";
import { button, el, toast } from "./dom.js";
import { themeButton } from "./panels.js";

const KINDS = { opened: "", uploaded: "Uploaded", example: "Example" };
export const VIDEO_FILES = ".mp4,.m4v,.mov,.mkv,.webm,.avi,.mpg,.mpeg,.ts,.ogv,.gif";

export function isVideoFile(file) {
  return VIDEO_FILES.split(",").some((suffix) => file.name.toLowerCase().endsWith(suffix));
}

function card(video) {
  const poster = el("img", { src: `/api/videos/${video.id}/poster`, alt: "", loading: "lazy", on: { error: () => poster.classList.add("broken") } });
  const state = video.tracking ? "Tracking…" : video.started ? "Has saved masks" : "Not started";
  const details = [KINDS[video.kind], state].filter(Boolean).join(" · ");
  return el("li", {}, el("a", { class: "card", href: `/?video=${encodeURIComponent(video.id)}` }, el("div", { class: "poster" }, poster),
    el("span", { class: "card-name", title: video.name }, video.name), el("span", { class: "muted" }, details)));
}

export async function showVideos(root, library) {
  document.title = "Videos · cutie-geo";
  const bar = el("progress", { max: "1", hidden: true, "aria-label": "Upload" });
  const upload = async (files) => {
    let added = null;
    for (const file of files) {
      bar.hidden = false;
      bar.value = 0;
      try {
        added = await uploadVideo(file, library.max_upload, (share) => { bar.value = share; });
      } catch (error) {
        toast(error.message, "error");
      }
    }
    bar.hidden = true;
    if (added && files.length === 1) location.href = `/?video=${encodeURIComponent(added.id)}`;
    else if (added) showVideos(root, await fetchJson("/api/videos"));
  };
  const choose = () => chooseFiles(VIDEO_FILES, upload);
  root.replaceChildren(
    el("header", { class: "top" }, el("img", { src: "/static/icon.svg", alt: "", class: "logo" }), el("h1", {}, "cutie-geo"),
      el("span", { class: "muted size" }, "Video annotation"), el("div", { class: "grow" }), bar,
      button("upload", "Upload a video", choose, { text: "Upload", kind: "primary" }), themeButton(), button("help", "Help and keys", () => helpDialog(), { key: "?" })),
    el("main", { class: "library" }, el("h2", {}, "Videos"),
      el("p", { class: "muted" }, "Masks are saved as you work. Open a video to continue where you left off."),
      el("ul", { class: "cards" }, ...library.videos.map(card)),
      el("button", { type: "button", class: "drop", on: { click: choose } }, el("strong", {}, "Drop a video here"),
        el("span", { class: "muted" }, `or choose a file, up to ${(library.max_upload / 2 ** 20).toFixed(0)} MiB. It stays on the machine that runs the program.`))));
  return { upload };
}
