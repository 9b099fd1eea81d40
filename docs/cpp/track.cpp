// The loop of a tracker over exported graphs, with onnxruntime's C++ API: one mask, then one label map per frame.
//
//   c++ -std=c++17 -O2 track.cpp -I onnxruntime/include -lonnxruntime -o track
//   ./track DIR frames.rgb first.raw masks.raw
//
// frames.rgb: raw RGB bytes of all frames at the size of the graphs; first.raw: one byte per pixel, the object's id.
// masks.raw: one byte per pixel and frame. For brevity, objects are added on the first frame only, the sizes are
// written below instead of read from model.json, each object of the mask has an id from 1 to N, and whole frames are
// processed: the masks are those of OnnxTracker(DIR, full_frame_every=1).

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

// Values of model.json: cutie-geo export onnx --model cutie-geo-tiny --size 288x512
#ifndef HEIGHT
#define HEIGHT 288
#define WIDTH 512
#define MAX_MEM_FRAMES 5
#define MEM_EVERY 3
#endif

using Floats = std::vector<float>;
using Shape = std::vector<int64_t>;

struct Graph {
  Ort::Session session;
  std::vector<std::string> inputs, outputs;

  Graph(Ort::Env& env, const std::string& path) : session(env, path.c_str(), Ort::SessionOptions{}) {
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session.GetInputCount(); i++) inputs.push_back(session.GetInputNameAllocated(i, allocator).get());
    for (size_t i = 0; i < session.GetOutputCount(); i++) outputs.push_back(session.GetOutputNameAllocated(i, allocator).get());
  }

  // Inputs are in the order of model.json.
  std::vector<Ort::Value> run(const std::vector<Ort::Value>& values) {
    std::vector<const char*> in, out;
    for (auto& name : inputs) in.push_back(name.c_str());
    for (auto& name : outputs) out.push_back(name.c_str());
    return session.Run(Ort::RunOptions{}, in.data(), values.data(), values.size(), out.data(), out.size());
  }
};

static const Ort::MemoryInfo cpu = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);

static Ort::Value view(Floats& data, const Shape& shape) {
  return Ort::Value::CreateTensor<float>(cpu, data.data(), data.size(), shape.data(), shape.size());
}

static Ort::Value view(Ort::Value& tensor) {
  const Shape shape = tensor.GetTensorTypeAndShapeInfo().GetShape();
  const size_t count = tensor.GetTensorTypeAndShapeInfo().GetElementCount();
  return Ort::Value::CreateTensor<float>(cpu, tensor.GetTensorMutableData<float>(), count, shape.data(), shape.size());
}

static Floats copied(Ort::Value& tensor) {
  const float* data = tensor.GetTensorData<float>();
  return Floats(data, data + tensor.GetTensorTypeAndShapeInfo().GetElementCount());
}

static Shape shape_of(Graph& graph, size_t input) {
  return graph.session.GetInputTypeInfo(input).GetTensorTypeAndShapeInfo().GetShape();
}

static int64_t volume(const Shape& shape) {
  int64_t product = 1;
  for (int64_t side : shape) product *= side;
  return product;
}

static int run(int argc, char** argv) {
  if (argc != 5) throw std::runtime_error("usage: track DIR frames.rgb first.raw masks.raw");
  const std::string folder = argv[1];
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "track");
  Graph encode(env, folder + "/encode.onnx"), read(env, folder + "/read.onnx"), decode(env, folder + "/decode.onnx");
  Graph combine(env, folder + "/combine.onnx"), embed(env, folder + "/embed.onnx"), memorise(env, folder + "/memorise.onnx");
  std::ifstream video(argv[2], std::ios::binary), first(argv[3], std::ios::binary);
  std::ofstream out(argv[4], std::ios::binary);
  if (!video || !first || !out) throw std::runtime_error("track: cannot open a file");

  // padded size and tables; free axes are -1
  Shape masks_shape = shape_of(read, 7), keys_shape = shape_of(read, 2), value_shape = shape_of(read, 4);
  Shape sensory_shape = shape_of(read, 5), summary_shape = shape_of(read, 6), inside_shape = shape_of(memorise, 4);
  const int64_t rows = masks_shape[1], columns = masks_shape[2], area = rows * columns;
  const int64_t top = (rows - HEIGHT) / 2, left = (columns - WIDTH) / 2;
  const int64_t capacity = keys_shape[0], width = keys_shape[1], channels = value_shape[2];
  const int64_t tokens = capacity / MAX_MEM_FRAMES;

  std::vector<uint8_t> labels(HEIGHT * WIDTH), pixels(3 * HEIGHT * WIDTH);
  first.read(reinterpret_cast<char*>(labels.data()), labels.size());
  const int64_t count = *std::max_element(labels.begin(), labels.end());
  if (!first || count == 0) throw std::runtime_error("track: first.raw: too short, or without objects");
  for (Shape* shape : {&masks_shape, &value_shape, &sensory_shape, &summary_shape, &inside_shape}) (*shape)[0] = count;

  Floats keys(capacity * width), value(volume(value_shape)), sensory(volume(sensory_shape)), summary(volume(summary_shape));
  Floats mask(count * area), image(3 * HEIGHT * WIDTH), padded(3 * area), both(2 * count * area), probs;
  Floats inside(volume(inside_shape), 1.0f);
  std::vector<uint8_t> filled(capacity);
  int64_t memory_frame = 0, recent = 0;

  for (int64_t frame = 0; video.read(reinterpret_cast<char*>(pixels.data()), pixels.size()); frame++) {
    for (int64_t i = 0; i < HEIGHT * WIDTH; i++)
      for (int64_t c = 0; c < 3; c++) {
        image[c * HEIGHT * WIDTH + i] = pixels[3 * i + c] / 255.0f;
        padded[c * area + (i / WIDTH + top) * columns + i % WIDTH + left] = image[c * HEIGHT * WIDTH + i];
      }
    std::vector<Ort::Value> values;
    values.push_back(view(image, {1, 3, HEIGHT, WIDTH}));
    std::vector<Ort::Value> seen = encode.run(values);  // pixel, skip8, skip4, query, keys

    if (frame == 0) {
      // probabilities of the given mask: each object's clamped odds, normalised (soft aggregation)
      probs.assign((count + 1) * area, 0);
      for (int64_t i = 0; i < area; i++) {
        const int64_t y = i / columns - top, x = i % columns - left;
        const bool inside = y >= 0 && y < HEIGHT && x >= 0 && x < WIDTH;
        const int64_t id = inside ? labels[y * WIDTH + x] : 0;
        float total = 0;
        for (int64_t n = 0; n <= count; n++) {
          const float p = n == id ? 1 - 1e-7f : 1e-7f;
          total += probs[n * area + i] = p / (1 - p);
        }
        for (int64_t n = 0; n <= count; n++) probs[n * area + i] /= total;
      }
    } else {
      std::vector<Ort::Value> asked;
      asked.push_back(view(seen[0]));
      asked.push_back(view(seen[3]));
      asked.push_back(view(keys, keys_shape));
      asked.push_back(Ort::Value::CreateTensor<bool>(cpu, reinterpret_cast<bool*>(filled.data()), filled.size(), &capacity, 1));
      asked.push_back(view(value, value_shape));
      asked.push_back(view(sensory, sensory_shape));
      asked.push_back(view(summary, summary_shape));
      asked.push_back(view(mask, masks_shape));
      std::vector<Ort::Value> known = read.run(asked), parts;  // readout, coarse
      parts.push_back(view(seen[1]));
      parts.push_back(view(seen[2]));
      parts.push_back(view(known[0]));
      parts.push_back(view(sensory, sensory_shape));
      std::vector<Ort::Value> decoded = decode.run(parts), logits;  // logits, new_sensory
      logits.push_back(view(decoded[0]));
      std::vector<Ort::Value> found = combine.run(logits);  // probs
      probs = copied(found[0]);
      sensory = copied(decoded[1]);
    }
    mask.assign(probs.begin() + area, probs.end());

    if (frame == 0 || frame - memory_frame >= MEM_EVERY) {
      // each object's mask, and the sum of the others
      for (int64_t i = 0; i < area; i++) {
        float total = 0;
        for (int64_t n = 0; n < count; n++) total += mask[n * area + i];
        for (int64_t n = 0; n < count; n++) {
          both[2 * n * area + i] = mask[n * area + i];
          both[(2 * n + 1) * area + i] = std::min(std::max(total - mask[n * area + i], 0.0f), 1.0f);
        }
      }
      std::vector<Ort::Value> shown, stored;
      shown.push_back(view(padded, {1, 3, rows, columns}));
      shown.push_back(view(both, {count, 2, rows, columns}));
      std::vector<Ort::Value> features = embed.run(shown);
      stored.push_back(view(seen[0]));
      stored.push_back(view(features[0]));
      stored.push_back(view(mask, masks_shape));
      stored.push_back(view(sensory, sensory_shape));
      stored.push_back(view(inside, inside_shape));
      std::vector<Ort::Value> kept = memorise.run(stored);  // value, new_sensory, summary
      // the first frame stays; the others are a ring
      const int64_t place = frame == 0 ? 0 : 1 + recent++ % (MAX_MEM_FRAMES - 1), start = place * tokens;
      const float *new_keys = seen[4].GetTensorData<float>(), *new_value = kept[0].GetTensorData<float>();
      std::copy(new_keys, new_keys + tokens * width, keys.begin() + start * width);
      for (int64_t n = 0; n < count; n++)
        std::copy(new_value + n * tokens * channels, new_value + (n + 1) * tokens * channels,
                  value.begin() + (n * capacity + start) * channels);
      std::fill(filled.begin() + start, filled.begin() + start + tokens, 1);
      sensory = copied(kept[1]);
      const float* more = kept[2].GetTensorData<float>();
      for (size_t i = 0; i < summary.size(); i++) summary[i] += more[i];
      memory_frame = frame;
    }

    for (int64_t y = 0; y < HEIGHT; y++)
      for (int64_t x = 0; x < WIDTH; x++) {
        int64_t best = 0;
        const int64_t at = (y + top) * columns + x + left;
        for (int64_t n = 1; n <= count; n++)
          if (probs[n * area + at] > probs[best * area + at]) best = n;
        labels[y * WIDTH + x] = static_cast<uint8_t>(best);
      }
    out.write(reinterpret_cast<const char*>(labels.data()), labels.size());
  }
  return 0;
}

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
