// The network and the arithmetic after it, without any page: scores of cells, enlarged, best class of each pixel.
// Photos are {width, height, data} with RGBA bytes; score maps are {rows, columns, classes, values} in that order.

export const STRIDES = [32, 16, 8];

/** Run the network on a photo. Returns a score map for each stride. */
export async function score(ort, session, photo) {
  const { width, height, data } = photo;
  const rgb = new Float32Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  const images = new ort.Tensor("float32", rgb, [1, height, width, 3]);
  const outputs = await session.run({ images });
  const maps = {};
  for (const stride of STRIDES) {
    const { dims, data: values } = outputs[`cells${stride}`];
    maps[stride] = { rows: dims[1], columns: dims[2], classes: dims[3], values };
  }
  return maps;
}

/** For each pixel along one side: the two cells that it lies between, and the weight of the second. */
function between(pixels, cells, stride) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const position = Math.min(Math.max((pixel + 0.5) / stride - 0.5, 0), cells - 1);
    const first = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    return { first, second: Math.min(first + 1, cells - 1), weight: position - first };
  });
}

/** Enlarge a score map bilinearly to (height, width), as the last layer of the network does. */
export function enlarge(map, stride, height, width) {
  const { columns, classes, values } = map;
  const large = new Float32Array(height * width * classes);
  const across = between(width, columns, stride);
  const line = new Float32Array(columns * classes);
  between(height, map.rows, stride).forEach(({ first, second, weight }, y) => {
    const [top, bottom] = [first * line.length, second * line.length];
    for (let i = 0; i < line.length; i++) line[i] = values[top + i] * (1 - weight) + values[bottom + i] * weight;
    let to = y * width * classes;
    for (const { first: left, second: right, weight: share } of across) {
      for (let c = 0; c < classes; c++) {
        large[to++] = line[left * classes + c] * (1 - share) + line[right * classes + c] * share;
      }
    }
  });
  return { rows: height, columns: width, classes, values: large };
}

/** Return the best class at each place of a score map; ties go to the lower class. */
export function best(map) {
  const { classes, values } = map;
  const ids = new Uint8Array(map.rows * map.columns);
  for (let i = 0, at = 0; i < ids.length; i++, at += classes) {
    let top = 0;
    for (let c = 1; c < classes; c++) if (values[at + c] > values[at + top]) top = c;
    ids[i] = top;
  }
  return ids;
}

/** Repeat each cell's id over its stride × stride pixels. */
export function spread(ids, columns, stride, height, width) {
  const large = new Uint8Array(height * width);
  for (let y = 0, to = 0; y < height; y++) {
    const row = Math.floor(y / stride) * columns;
    for (let x = 0; x < width; x++) large[to++] = ids[row + Math.floor(x / stride)];
  }
  return large;
}

/** The true mask after a detour over cells: each cell holds the share of every class, enlarged as scores are. */
export function oracle(truth, stride, height, width, classes) {
  const rows = Math.ceil(height / stride), columns = Math.ceil(width / stride);
  const values = new Float32Array(rows * columns * classes);
  const known = new Float32Array(rows * columns);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (truth[i] >= classes) continue;
      const cell = Math.floor(y / stride) * columns + Math.floor(x / stride);
      values[cell * classes + truth[i]]++;
      known[cell]++;
    }
  }
  for (let i = 0; i < values.length; i++) values[i] /= Math.max(known[Math.floor(i / classes)], 1);
  return best(enlarge({ rows, columns, classes, values }, stride, height, width));
}

/** Mean IoU over the classes that occur in truth or prediction; void (255) is left out. */
export function meanIou(truth, prediction, classes) {
  const both = new Float64Array(classes), either = new Float64Array(classes);
  truth.forEach((id, i) => {
    if (id >= classes) return;
    either[id]++;
    if (id === prediction[i]) both[id]++;
    else either[prediction[i]]++;
  });
  const shown = [...either.keys()].filter((id) => either[id] > 0);
  return shown.reduce((sum, id) => sum + both[id] / either[id], 0) / shown.length;
}

/** Softmax of the scores at one place. */
export function probabilities(map, place) {
  const scores = map.values.slice(place * map.classes, (place + 1) * map.classes);
  const top = Math.max(...scores);
  const powers = Array.from(scores, (value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/** The square of pixels that a cell of stride 32 sees: [from, to) along one side, not cut at the border. */
export function seen(cell, size) {
  const center = 32 * cell + 16;
  return [center - size / 2, center + size / 2];
}
