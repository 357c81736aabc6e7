// What is looked at: a picture, its boxes at the score of the slider, and everything said of them.

import { compare, nameKey } from "./compare.js";
import { blank, classColor, drawBoxes, drawn, paint, viewOf } from "./drawing.js";
import * as results from "./results.js";
import { SNIPPETS } from "./snippets.js";

const $ = (id) => document.getElementById(id);
const views = [...document.querySelectorAll(".view")].map(viewOf);

/** Numbers by class name, for colours; the same for all detectors. */
const colors = new Map();
const hidden = new Set();
let shown = null;

/** The detectors that are asked: one, or two to compare. */
export const chosenModels = () => [$("model").value, $("other").value].filter(Boolean);
export const score = () => Number($("score").value);

/** Give each class a colour. */
export function learnLabels(labels) {
  for (const label of labels) if (!colors.has(nameKey(label))) colors.set(nameKey(label), colors.size);
}

/** The boxes of each answer that the slider leaves. */
function scored(answers) {
  const least = score();
  return answers.map(({ detections }) => detections.filter((one) => one.score >= least));
}

/** Those of them that the legend leaves too, and what differs where there are two answers. */
export function visible(answers) {
  const lists = scored(answers).map((boxes) => boxes.filter(({ label }) => !hidden.has(nameKey(label))));
  return { lists, differences: lists.length === 2 ? compare(...lists) : null };
}

/** Show a picture without boxes; `source` is a bitmap or canvas, or null where the browser cannot show it. */
export function showPicture(source) {
  const models = chosenModels();
  shown = null;
  $("views").hidden = !source;
  $("views").classList.toggle("two", models.length === 2);
  views.forEach((view, i) => {
    view.figure.hidden = i >= models.length;
    view.caption.hidden = models.length === 1;
    view.caption.textContent = models[i] ?? "";
    if (view.figure.hidden) return;
    paint(view, source);
    drawBoxes(view, []);
  });
}

/** Show the answers of the chosen detectors for that picture. `name` is the file's, `note` a sentence before the others. */
export function showAnswers({ name, answers, note = "" }) {
  shown = { name, answers, note, models: chosenModels() };
  const { width, height } = answers[0].image;
  for (const view of views.slice(0, answers.length)) {
    if (view.size && view.size.join() !== [width, height].join()) {
      shown.note = `The browser shows ${view.size.join(" × ")} pixels and the server read ${width} × ${height}: boxes may be off. `;
    }
    if (!view.size) blank(view, width, height);
  }
  $("views").hidden = false;
  $("page").classList.add("answered");
  render();
}

/** Say that an answer is waited for, or "" that none comes. */
export function showNoAnswers(words) {
  shown = null;
  if (!words) $("page").classList.remove("answered");
  $("summary").textContent = words;
}

/** Where an answer is waited for, none comes. */
export function askNoMore() {
  if (!shown) showNoAnswers("");
}

/** Draw and say everything anew, as after the slider has moved. */
export function render() {
  $("score-value").textContent = score().toFixed(2);
  if (!shown) return;
  const { lists, differences } = visible(shown.answers);
  boxesOf(lists, differences).forEach((boxes, i) => drawBoxes(views[i], boxes));
  const words = results.summary(shown.models, lists, differences, score());
  $("summary").textContent = shown.note + words;
  views.forEach((view) => view.boxes.setAttribute("aria-label", `${shown.name}: ${words}`));
  results.showLegend(scored(shown.answers), hidden, colors, toggle);
  results.showDifferences(shown.models, differences);
  results.showTimes(shown.models, shown.answers);
  if ($("boxes-section").open) results.showBoxes(shown.models, lists, differences);
  if ($("call").open) showCall();
}

function boxesOf(lists, differences) {
  return lists.map((boxes, i) =>
    boxes.map((one, j) => ({
      ...one,
      color: classColor(colors.get(nameKey(one.label)) ?? 0),
      mark: differences?.marks[i][j],
    })),
  );
}

function toggle(name) {
  if (!hidden.delete(name)) hidden.add(name);
  document.dispatchEvent(new Event("filter"));
}

function showCall() {
  const language = document.querySelector("[data-language][aria-pressed=true]").dataset.language;
  const [model] = shown.models;
  const picture = shown.name.split("/").at(-1);
  $("code").textContent = SNIPPETS[language]({ model, picture, score: score() });
}

/** What is shown, for a file: a record for each detector. */
export function recordsOf({ name, answers }) {
  const { lists } = visible(answers);
  return chosenModels().map((model, i) => ({
    picture: name,
    model,
    score: score(),
    image: answers[i].image,
    detections: lists[i],
    timings: answers[i].timings,
  }));
}

export function saveJson(entries, name) {
  const text = JSON.stringify(entries.flatMap(recordsOf), null, 2);
  results.save(new Blob([text + "\n"], { type: "application/json" }), name);
}

export function saveShownJson() {
  if (shown) saveJson([shown], `${stem()}.json`);
}

/** The picture as it is drawn; of two detectors, each by itself. */
export async function saveDrawn() {
  if (!shown) return;
  const { lists, differences } = visible(shown.answers);
  const { models } = shown;
  for (const [i, boxes] of boxesOf(lists, differences).entries()) {
    const name = models.length === 2 ? `${stem()}-${models[i]}` : `${stem()}-drawn`;
    results.save(await drawn(views[i], boxes), `${name}.jpg`);
  }
}

const stem = () => shown.name.split("/").at(-1).replace(/\.[^.]*$/, "");

new ResizeObserver(() => render()).observe($("views"));
