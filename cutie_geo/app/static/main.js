// Entry of the page: the list of videos, or the editor of one.

import { fetchJson } from "./connection.js";
import { isAnnotation } from "./dialogs.js";
import { el, toast } from "./dom.js";
import { Editor } from "./editor.js";
import { startTheme } from "./panels.js";
import { isVideoFile, showVideos } from "./videos.js";

startTheme();
const root = document.getElementById("app");
let editor = null;
let list = null;

async function start() {
  const query = new URLSearchParams(location.search);
  try {
    const library = await fetchJson("/api/videos");
    const wanted = query.get("video") ?? (query.has("list") ? null : library.first);
    if (library.videos.some((video) => video.id === wanted)) {
      editor = new Editor(wanted, root);
      window.editor = editor; // for the console and tests
    } else {
      if (query.get("video")) toast("This video is not in the list any more.");
      list = await showVideos(root, library);
    }
  } catch (error) {
    root.replaceChildren(el("div", { class: "loading" }, el("p", {}, `The program cannot be reached: ${error.message}`)));
  }
}

// Files may be dropped anywhere: videos are uploaded, masks and annotations are imported into the open video.
function dropped(event) {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const files = [...(event.dataTransfer?.files ?? [])];
  if (!files.length) return;
  const videos = files.filter(isVideoFile);
  const annotations = files.filter(isAnnotation);
  if (editor && annotations.length) editor.import(annotations);
  else if (list && videos.length) list.upload(videos);
  else if (videos.length) toast("Open the list of videos to upload a video.");
  else toast(`${files[0].name}: expected a video, or with a video open, masks (.png), COCO (.json) or CVAT (.xml).`, "error");
}

window.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
window.addEventListener("drop", dropped);
window.addEventListener("error", ({ message }) => toast(`Error on the page: ${message}`, "error"));
window.addEventListener("unhandledrejection", ({ reason }) => {
  if (reason?.name !== "AbortError") toast(`Error on the page: ${reason?.message ?? reason}`, "error");
});
start();
