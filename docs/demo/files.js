// Files: PNG masks, COCO's run lengths, and ZIP archives, without libraries.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

export function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** The palette of DAVIS: colours of ids 0 to 255, (256, 3). */
export const PALETTE = Uint8Array.from({ length: 768 }, (_, i) => {
  let [id, channel, colour] = [Math.floor(i / 3), i % 3, 0];
  for (let bit = 7; id; bit--, id >>= 3) colour |= ((id >> channel) & 1) << bit;
  return colour;
});

/** Encode a label map (height, width) of ids up to 255 as an indexed PNG. */
export async function encodePng(labels, height, width) {
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const id = labels[y * width + x];
      if (id > 255) throw new Error(`mask: got id ${id}, expected at most 255 in an indexed PNG`);
      rows[y * (width + 1) + x + 1] = id;
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 3, 0, 0, 0], 8);
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header), chunk("PLTE", PALETTE)];
  parts.push(chunk("IDAT", await through(rows, new CompressionStream("deflate"))), chunk("IEND", new Uint8Array(0)));
  return concat(parts);
}

function chunk(type, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(bytes.subarray(4, data.length + 8)));
  return bytes;
}

/** Decode an indexed or grey PNG of at most 8 bits to {labels, height, width}; ids are palette indices or grey values. */
export async function decodePng(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const refuse = (text) => {
    throw new Error(`mask: ${text}; expected a PNG with palette or grey levels as object ids`);
  };
  if (bytes.length < 33 || SIGNATURE.some((byte, i) => bytes[i] !== byte)) refuse("not a PNG");
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [depth, colour, , , interlaced] = bytes.subarray(24, 29);
  if ((colour !== 0 && colour !== 3) || depth > 8) refuse(`got colour type ${colour} with ${depth} bits`);
  if (interlaced) refuse("interlaced");
  if (!width || !height || width * height > 2 ** 26) refuse(`got ${width} x ${height} pixels`);
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) refuse("truncated");
    if (type === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    if (type === "IEND") break;
    at += 12 + length;
  }
  const stride = Math.ceil((width * depth) / 8);
  let raw;
  try {
    raw = await through(concat(parts), new DecompressionStream("deflate"));
  } catch {
    refuse("damaged");
  }
  if (raw.length < height * (stride + 1)) refuse("truncated");
  const labels = new Int32Array(width * height);
  let above = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    const row = raw.slice(y * (stride + 1) + 1, (y + 1) * (stride + 1));
    for (let x = 0; x < stride; x++) row[x] += predicted(filter, x ? row[x - 1] : 0, above[x], x ? above[x - 1] : 0);
    for (let x = 0; x < width; x++) {
      const bit = x * depth;
      labels[y * width + x] = (row[bit >> 3] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
    }
    above = row;
  }
  return { labels, height, width };
}

function predicted(filter, left, up, corner) {
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  if (filter !== 4) return 0;
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function concat(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Return a ZIP archive of [name, bytes] pairs, stored without compression: PNGs are compressed already. */
export function zip(files) {
  const [bodies, index] = [[], []];
  let offset = 0;
  for (const [name, bytes] of files) {
    const title = new TextEncoder().encode(name);
    const fields = new DataView(new ArrayBuffer(26));
    fields.setUint16(0, 20, true);
    fields.setUint16(2, 0x0800, true); // names in UTF-8
    fields.setUint16(8, 0x21, true); // 1 January 1980: archives of equal files are equal
    fields.setUint32(10, crc32(bytes), true);
    fields.setUint32(14, bytes.length, true);
    fields.setUint32(18, bytes.length, true);
    fields.setUint16(22, title.length, true);
    const shared = new Uint8Array(fields.buffer);
    const local = [Uint8Array.of(80, 75, 3, 4), shared, title, bytes];
    const tail = new DataView(new ArrayBuffer(14));
    tail.setUint32(10, offset, true);
    index.push(Uint8Array.of(80, 75, 1, 2, 20, 0), shared, new Uint8Array(tail.buffer), title);
    bodies.push(...local);
    offset += local.reduce((sum, part) => sum + part.length, 0);
  }
  const size = index.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, offset, true);
  return concat([...bodies, ...index, new Uint8Array(end.buffer)]);
}

/** COCO's annotation fields of one object of a label map: run lengths in column order, area and box; null if unseen. */
export function cocoObject(labels, id, height, width) {
  const counts = [];
  let [run, inside, area] = [0, false, 0];
  let [x0, y0, x1, y1] = [width, height, -1, -1];
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const here = labels[y * width + x] === id;
      if (here !== inside) {
        counts.push(run);
        [run, inside] = [0, here];
      }
      run++;
      if (here) {
        area++;
        [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
      }
    }
  }
  counts.push(run);
  if (!area) return null;
  return { segmentation: { size: [height, width], counts }, area, bbox: [x0, y0, x1 - x0 + 1, y1 - y0 + 1], iscrowd: 0 };
}

/** COCO's instances JSON of results: [{name, height, width, objects: {id: cocoObject}}]. */
export function coco(video, results) {
  const [images, annotations, ids] = [[], [], new Set()];
  results.forEach((result, frame) => {
    images.push({ id: frame + 1, file_name: `${video}/${result.name}`, height: result.height, width: result.width, video_id: 1, frame_id: frame });
    for (const [id, object] of Object.entries(result.objects)) {
      ids.add(Number(id));
      annotations.push({ id: annotations.length + 1, image_id: frame + 1, category_id: Number(id), track_id: Number(id), ...object });
    }
  });
  const categories = [...ids].sort((a, b) => a - b).map((id) => ({ id, name: `object ${id}`, supercategory: "object" }));
  return { info: { description: "Written by cutie_geo" }, videos: [{ id: 1, name: video }], images, annotations, categories };
}
