// Runs the graphs in a thread of its own, so that the page stays responsive.
import * as ort from "./vendor/ort.wasm.min.mjs";
import { cocoObject, encodePng } from "./files.js";
import { Prompter } from "./prompts.js";
import { labelMap, openModel, Tracker } from "./tracker.js";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
// threads share memory, which browsers allow on cross-origin isolated pages only (serve.py)
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;

let tracker = null;
let prompter = null;

const answers = {
  async open({ files }) {
    const model = await openModel(ort, files, { executionProviders: ["wasm"] });
    tracker = new Tracker(ort, model);
    prompter = model.about.graphs.prompt ? new Prompter(ort, model.about, (name, feed) => tracker.run(name, feed)) : null;
    return { about: model.about, threads: ort.env.wasm.numThreads };
  },
  async reset() {
    tracker.reset();
    return {};
  },
  /** Encode a frame for `prompt`: `image` at the graphs' size, `pixels` at its own. */
  async look({ image, pixels, height, width }) {
    prompter.begin(pixels, height, width, await tracker.encode(image));
    return {};
  },
  async prompt({ prompt, mask }) {
    return prompter.predict(prompt, mask, true);
  },
  async frame({ image, mask, height, width }) {
    const begin = performance.now();
    const probs = await tracker.step(image, mask);
    const labels = labelMap(probs, tracker.ids, tracker.about, height, width);
    const seconds = (performance.now() - begin) / 1000;
    const objects = {};
    for (const id of tracker.ids) {
      const object = cocoObject(labels, id, height, width);
      if (object) objects[id] = object;
    }
    return { labels, objects, png: await encodePng(labels, height, width), seconds };
  },
};

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ id: data.id, ...(await answers[data.type](data)) });
  } catch (error) {
    self.postMessage({ id: data.id, error: error.message || String(error) });
  }
};
