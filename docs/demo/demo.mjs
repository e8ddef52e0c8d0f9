// The page: a photo, what the network says of it, and what the pixel under the pointer is made of.
import * as ort from "./ort.wasm.min.mjs";
import * as net from "./network.mjs";

const VIEWS = ["photo", "score of the class, by cell", "score of the class, enlarged", "best class of each cell",
               "best class of each pixel", "the most this stride can draw", "truth"];
const LONGEST = 640;
const here = new URL(".", import.meta.url);
const element = (id) => document.getElementById(`fcn-${id}`);
const [canvas, slider, status] = [element("canvas"), element("view"), element("status")];
let card, session, photo, truth, maps, large, stride = 32, pixel = { x: 128, y: 128 }, camera;

async function start() {
  ort.env.wasm.wasmPaths = here.href;
  ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
  card = await (await fetch(new URL("fcn.json", here))).json();
  session = await ort.InferenceSession.create(new URL("fcn.onnx", here).href);
  element("legend").replaceChildren(...card.class_names.map((name, id) => {
    const item = document.createElement("span");
    item.style.setProperty("--color", color(id));
    item.textContent = name;
    return item;
  }));
  for (const name of card.scenes) {
    const button = document.createElement("button");
    button.innerHTML = `<img src="${new URL(`${name}.jpg`, here)}" alt="scene ${name}" width="72" height="72">`;
    button.addEventListener("click", () => showScene(name));
    element("scenes").append(button);
  }
  await showScene(card.scenes[0]);
}

const color = (id) => `rgb(${card.colors[id].join(" ")})`;

async function picture(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

function pixels(source, width, height, smooth = true) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = smooth;
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

async function showScene(name) {
  const image = await picture(new URL(`${name}.jpg`, here));
  const mask = await picture(new URL(`${name}.png`, here));
  const drawn = pixels(mask, mask.width, mask.height, false).data;
  const ids = new Map(card.colors.map((rgb, id) => [rgb.join(), id]));
  const found = new Uint8Array(mask.width * mask.height);
  for (let i = 0; i < found.length; i++) found[i] = ids.get(drawn.slice(4 * i, 4 * i + 3).join()) ?? 255;
  await label(pixels(image, image.width, image.height), found);
}

async function showFile(file) {
  try {
    const image = await createImageBitmap(file);
    const shrink = Math.min(1, LONGEST / Math.max(image.width, image.height));
    await label(pixels(image, Math.round(image.width * shrink), Math.round(image.height * shrink)), null);
  } catch (error) {
    status.textContent = `${file.name ?? "The camera"}: cannot be read as a picture (${error.message}).`;
  }
}

/** Score a photo at all strides and show it. mask: true ids, or null where they are unknown. */
async function label(shown, mask) {
  const begun = performance.now();
  [photo, truth] = [shown, mask];
  maps = await net.score(ort, session, photo);
  large = {};
  for (const s of net.STRIDES) {
    const scores = net.enlarge(maps[s], s, photo.height, photo.width);
    large[s] = { scores, ids: net.best(scores) };
  }
  const milliseconds = Math.round(performance.now() - begun);
  if (pixel.x >= photo.width || pixel.y >= photo.height) pixel = { x: photo.width >> 1, y: photo.height >> 1 };
  slider.max = truth ? VIEWS.length - 1 : 4;
  status.textContent = `${photo.width}×${photo.height} pixels, labelled at three strides in ${milliseconds} ms, here.`;
  for (const s of net.STRIDES) {
    const figure = element(`stride-${s}`);
    paint(figure.querySelector("canvas"), overlay(large[s].ids));
    const score = truth && net.meanIou(truth, large[s].ids, card.class_names.length).toFixed(2);
    const most = truth && net.oracle(truth, s, photo.height, photo.width, card.class_names.length);
    figure.querySelector("figcaption").textContent = `FCN-${s}s` + (truth
      ? `: mean IoU ${score} of ${net.meanIou(truth, most, card.class_names.length).toFixed(2)} that cells can draw` : "");
  }
  document.documentElement.dataset.fcn = `${Number(document.documentElement.dataset.fcn ?? 0) + 1}`;
  draw();
}

/** Photo with class colours over it; background and void stay clear. */
function overlay(ids) {
  const data = new Uint8ClampedArray(photo.data);
  ids.forEach((id, i) => {
    if (id === 0 || id === 255) return;
    for (let c = 0; c < 3; c++) data[4 * i + c] = 0.35 * data[4 * i + c] + 0.65 * card.colors[id][c];
  });
  return data;
}

/** Scores of one class from dark blue (lowest) to yellow (highest). */
function heat(scores, id, map = scores) {
  const all = Array.from({ length: map.rows * map.columns }, (_, i) => map.values[i * map.classes + id]);
  const low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
  const ramp = [[0, 34, 78], [124, 123, 120], [254, 232, 56]];
  const data = new Uint8ClampedArray(photo.data.length).fill(255);
  for (let i = 0; i < photo.width * photo.height; i++) {
    const part = 2 * Math.min(1, Math.max(0, (scores.values[i * scores.classes + id] - low) / (high - low || 1)));
    const [from, to] = part < 1 ? [ramp[0], ramp[1]] : [ramp[1], ramp[2]];
    for (let c = 0; c < 3; c++) data[4 * i + c] = from[c] + (to[c] - from[c]) * (part < 1 ? part : part - 1);
  }
  return data;
}

function paint(target, data) {
  [target.width, target.height] = [photo.width, photo.height];
  target.getContext("2d").putImageData(new ImageData(data, photo.width, photo.height), 0, 0);
}

/** Each cell's scores repeated over its pixels. */
function inCells(map) {
  const places = Int32Array.from({ length: photo.width * photo.height }, (_, i) =>
    Math.floor(Math.floor(i / photo.width) / stride) * map.columns + Math.floor((i % photo.width) / stride));
  const values = new Float32Array(places.length * map.classes);
  places.forEach((place, i) => values.set(map.values.subarray(place * map.classes, (place + 1) * map.classes), i * map.classes));
  return { ...map, values };
}

function view(number, id) {
  const { width, height } = photo;
  if (number === 1) return heat(inCells(maps[stride]), id, maps[stride]);
  if (number === 2) return heat(large[stride].scores, id, maps[stride]);
  if (number === 3) return overlay(net.spread(net.best(maps[stride]), maps[stride].columns, stride, height, width));
  if (number === 4) return overlay(large[stride].ids);
  if (number === 5) return overlay(net.oracle(truth, stride, height, width, card.class_names.length));
  return number === 6 ? overlay(truth) : photo.data;
}

/** Draw the chosen view, the pixel's cell and what it sees, and the scores at the pixel. */
function draw() {
  const place = pixel.y * photo.width + pixel.x;
  const id = large[stride].ids[place];
  const number = Math.min(slider.valueAsNumber, slider.max);
  paint(canvas, view(number, id));
  const context = canvas.getContext("2d");
  const [column, row] = [Math.floor(pixel.x / stride), Math.floor(pixel.y / stride)];
  const [left, right] = net.seen(Math.floor(pixel.x / 32), card.receptive_field);
  const [top] = net.seen(Math.floor(pixel.y / 32), card.receptive_field);
  for (const [style, dash, x, y, side] of [["#fff", [], left, top, right - left],
                                           ["#000", [6, 6], left, top, right - left],
                                           ["#fff", [], column * stride, row * stride, stride],
                                           ["#000", [3, 3], column * stride, row * stride, stride]]) {
    context.strokeStyle = style;
    context.setLineDash(dash);
    context.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
  }
  const parts = net.probabilities(large[stride].scores, place);
  element("bars").replaceChildren(...parts.map((part, c) => {
    const bar = document.createElement("div");
    bar.style.setProperty("--part", part);
    bar.style.setProperty("--color", color(c));
    bar.textContent = `${card.class_names[c]} ${part.toFixed(2)}`;
    return bar;
  }));
  const named = number === 1 || number === 2 ? VIEWS[number].replace("the class", card.class_names[id]) : VIEWS[number];
  slider.setAttribute("aria-valuetext", named);
  element("view-name").textContent = named;
  const true_id = truth?.[place];
  const said = truth ? `; truth: ${true_id === 255 ? "void" : card.class_names[true_id]}` : "";
  element("pixel").textContent = `Pixel ${pixel.x}, ${pixel.y} in cell ${column}, ${row}: `
    + `${card.class_names[id]} ${parts[id].toFixed(2)}${said}. The deepest layer sees the large square.`;
}

function moveTo(x, y) {
  pixel = { x: Math.min(Math.max(x, 0), photo.width - 1), y: Math.min(Math.max(y, 0), photo.height - 1) };
  draw();
}

function point(event) {
  if (!maps) return;
  const box = canvas.getBoundingClientRect();
  moveTo(Math.floor((event.clientX - box.left) / box.width * photo.width),
         Math.floor((event.clientY - box.top) / box.height * photo.height));
}

canvas.addEventListener("pointermove", point);
canvas.addEventListener("pointerdown", point);
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[event.key];
  if (!step || !maps) return;
  event.preventDefault();
  moveTo(pixel.x + step[0], pixel.y + step[1]);
});
slider.addEventListener("input", draw);
for (const input of document.querySelectorAll("input[name=fcn-stride]")) {
  input.addEventListener("change", () => { stride = Number(input.value); draw(); });
}
element("file").addEventListener("change", ({ target }) => target.files[0] && showFile(target.files[0]));
element("camera").addEventListener("click", async () => {
  try {
    camera ??= document.createElement("video");
    camera.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await camera.play();
    await showFile(await createImageBitmap(camera));
  } catch (error) {
    status.textContent = `The camera cannot be used (${error.message}).`;
  } finally {
    camera?.srcObject?.getTracks().forEach((track) => track.stop());
  }
});
start().catch((error) => { status.textContent = `The network could not be started: ${error.message}`; });
