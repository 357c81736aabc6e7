// A picture on one canvas, its boxes on another above it. Both are used again for the next picture.

const LARGEST_PX = 16e6; // what phones give a canvas
const MARKS = {
  same: { color: "#d5d8de", dash: [], width: 1.5, words: "" },
  moved: { color: "#ffc247", dash: [10, 5], width: 2.5, words: " · moved" },
  alone: { color: "#ff9d9d", dash: [3, 4], width: 2.5, words: " · only here" },
};
const FONT = '600 13px system-ui, "Segoe UI", Roboto, sans-serif';
const LABEL_HEIGHT = 20;

/** A colour for a class, light enough for black text. */
export const classColor = (number) => `oklch(0.83 0.15 ${(80 + number * 137.5) % 360})`;

/** The canvases of a figure. `size` is the picture's [width, height] in the server's pixels, null before it is known. */
export function viewOf(figure) {
  const [picture, boxes] = figure.querySelectorAll("canvas");
  const layers = figure.querySelector(".layers");
  return { figure, picture, boxes, layers, caption: figure.querySelector("figcaption"), size: null };
}

/** Show `source`, a bitmap or canvas, where the last picture was; null where the browser cannot show it. */
export function paint(view, source) {
  view.size = source && [source.width, source.height];
  if (!source) return;
  const scale = Math.min(1, Math.sqrt(LARGEST_PX / (source.width * source.height)));
  view.picture.width = Math.max(1, Math.round(source.width * scale));
  view.picture.height = Math.max(1, Math.round(source.height * scale));
  view.picture.getContext("2d").drawImage(source, 0, 0, view.picture.width, view.picture.height);
  view.layers.style.setProperty("--ratio", source.width / source.height);
}

/** Grey in place of a picture that the browser cannot show. */
export function blank(view, width, height) {
  const grey = document.createElement("canvas");
  Object.assign(grey, { width, height });
  const context = grey.getContext("2d");
  context.fillStyle = "#77777c";
  context.fillRect(0, 0, width, height);
  paint(view, grey);
}

/** Draw boxes, [{box, label, score, color, mark}], over the picture; what was drawn before is gone. */
export function drawBoxes(view, boxes) {
  const scale = window.devicePixelRatio;
  view.boxes.width = Math.round(view.layers.clientWidth * scale);
  view.boxes.height = Math.round(view.layers.clientHeight * scale);
  if (view.size) draw(view.boxes.getContext("2d"), view.size, boxes, scale);
}

/** The picture with its boxes, a JPEG of the picture's size. */
export async function drawn(view, boxes) {
  const canvas = document.createElement("canvas");
  canvas.width = view.picture.width;
  canvas.height = view.picture.height;
  const context = canvas.getContext("2d");
  context.drawImage(view.picture, 0, 0);
  draw(context, view.size, boxes, Math.max(1, canvas.width / 900));
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  canvas.width = canvas.height = 0;
  return blob;
}

/** `unit` is how many pixels of the canvas are one of line and text. The best boxes are on top. */
function draw(context, [pictureWidth, pictureHeight], boxes, unit) {
  const width = context.canvas.width / unit;
  const height = context.canvas.height / unit;
  context.setTransform(unit, 0, 0, unit, 0, 0);
  context.font = FONT;
  context.textBaseline = "middle";
  for (const one of [...boxes].reverse()) {
    const [x1, y1, x2, y2] = one.box.map((value, i) => (i % 2 ? (value * height) / pictureHeight : (value * width) / pictureWidth));
    const style = MARKS[one.mark] ?? { color: one.color, dash: [], width: 2.5, words: "" };
    outline(context, style, [x1, y1, x2 - x1, y2 - y1]);
    label(context, style, `${one.label} ${one.score.toFixed(2)}${style.words}`, x1, y1, width);
  }
}

function outline(context, { color, dash, width }, rectangle) {
  context.setLineDash([]);
  context.strokeStyle = "rgb(0 0 0 / 0.55)";
  context.lineWidth = width + 2;
  context.strokeRect(...rectangle);
  context.setLineDash(dash);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.strokeRect(...rectangle);
}

function label(context, { color }, text, left, top, width) {
  const length = context.measureText(text).width + 10;
  const x = Math.max(0, Math.min(left - 2, width - length));
  const y = top >= LABEL_HEIGHT ? top - LABEL_HEIGHT : Math.max(0, top);
  context.fillStyle = color;
  context.fillRect(x, y, length, LABEL_HEIGHT);
  context.fillStyle = "#000";
  context.fillText(text, x + 5, y + LABEL_HEIGHT / 2 + 0.5);
}
