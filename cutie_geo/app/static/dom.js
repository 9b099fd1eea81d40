// Small helpers that build elements. Text always becomes text nodes, so nothing from a file is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else if (name in node && name !== "list" && typeof value !== "string") node[name] = value;
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Paths of 24x24 icons, drawn as lines.
const ICONS = {
  add: "M12 5v14M5 12h14",
  undo: "M9 5L4 10l5 5M4 10h10a5 5 0 0 1 0 10h-3",
  redo: "M15 5l5 5-5 5M20 10H10a5 5 0 0 0 0 10h3",
  point: "M12 3v5M12 16v5M3 12h5M16 12h5M12 11v2",
  brush: "M19 4l-9 9M10 13c-3 0-4 2-4 4 0 1-1 2-2 2 1 1 3 2 5 1 2 0 4-2 4-4z",
  eraser: "M8 20h12M5 14l8-9 6 5-8 9H8z",
  pan: "M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  eye: "M2 12c3-5 6-7 10-7s7 2 10 7c-3 5-6 7-10 7s-7-2-10-7zM12 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5",
  eyeOff: "M4 4l16 16M9 6a9 9 0 0 1 3-1c4 0 7 2 10 7l-2 3M6 8a16 16 0 0 0-4 4c3 5 6 7 10 7 1 0 3 0 4-1",
  lock: "M6 11h12v9H6zM8 11V8a4 4 0 0 1 8 0v3",
  unlock: "M6 11h12v9H6zM8 11V7a4 4 0 0 1 7-2",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  play: "M8 5l11 7-11 7z",
  pause: "M8 5v14M16 5v14",
  next: "M9 5l7 7-7 7",
  previous: "M15 5l-7 7 7 7",
  first: "M6 5v14M18 5l-8 7 8 7z",
  last: "M18 5v14M6 5l8 7-8 7z",
  nextPrompt: "M4 12h10M10 7l5 5-5 5M20 9l3 3-3 3-3-3z",
  previousPrompt: "M20 12H10M14 7l-5 5 5 5M4 9l3 3-3 3-3-3z",
  lowest: "M4 6l5 9 4-5 3 8M3 20h18M16 18l4-3",
  stop: "M6 6h12v12H6z",
  forward: "M4 6l7 6-7 6zM12 6l7 6-7 6z",
  backward: "M20 6l-7 6 7 6zM12 6l-7 6 7 6z",
  both: "M9 7l-6 5 6 5zM15 7l6 5-6 5z",
  range: "M5 4v16M19 4v16M8 12h8M13 9l3 3-3 3",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  upload: "M12 16V5M7 9l5-5 5 5M4 20h16",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M19 5l-2 2M7 17l-2 2",
  moon: "M19 14A8 8 0 1 1 10 4a7 7 0 0 0 9 10z",
  help: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M9.5 9.5a2.5 2.5 0 1 1 3.6 2.3c-.8.4-1.1.9-1.1 1.7M12 16.5v.2",
  videos: "M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z",
  check: "M5 12l5 5 9-10",
  close: "M6 6l12 12M18 6L6 18",
  clear: "M4 20h9M6 14l7-8 6 5-7 8H9zM15 16l5 5M20 16l-5 5",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

// A button with an icon, a name for screen readers, and its key in the tooltip.
export function button(name, label, run, { key, text, kind = "", ...props } = {}) {
  const title = key ? `${label} (${key})` : label;
  const children = [icon(name), text ? el("span", {}, text) : null];
  return el("button", { type: "button", class: `button ${text ? "" : "square"} ${kind}`, title,
    "aria-label": title, on: { click: run }, ...props }, ...children);
}

export function setIcon(node, name) {
  node.querySelector("svg").replaceWith(icon(name));
}

export function toast(text, kind = "") {
  const box = document.getElementById("toasts");
  const known = [...box.children].find((node) => node.firstChild.textContent === text);
  known?.remove();
  while (box.children.length > 3) box.firstChild.remove();
  const node = el("div", { class: `toast ${kind}` }, el("span", {}, text),
    el("button", { type: "button", class: "link", "aria-label": "Close message", on: { click: () => node.remove() } }, "×"));
  box.append(node);
  setTimeout(() => node.remove(), kind === "error" ? 12000 : 5000);
}

export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

// Settings of this browser: theme, overlay, last export. Not part of the video's session.
export function remember(name, value) {
  try { localStorage.setItem(`cutie-geo.${name}`, JSON.stringify(value)); } catch { /* private mode */ }
}

export function recall(name, otherwise) {
  try {
    const text = localStorage.getItem(`cutie-geo.${name}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch { return otherwise; }
}

export function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
