// The page: what the controls do, and where pictures come from.

import { Problem, describe, detect, models } from "./calls.js";
import { chosen, isVideo, picturesOf, transferred } from "./files.js";
import { forgetKey } from "./key.js";
import { closeLive, eachFrame, openCamera, openVideo } from "./live.js";
import { askAll, bitmapOf, lineOf } from "./pictures.js";
import { hideProblem, showProblem } from "./problem.js";
import { clearLegend } from "./results.js";
import * as show from "./show.js";

const $ = (id) => document.getElementById(id);
const video = $("video");
const MOST_LISTED = 8;
let entries = []; // {name, file, answers, problem}
let repeat = null; // what is asked again when another detector is chosen
let work = new AbortController();

/** Do `task(signal)` in place of what is done now, and say what goes wrong. */
async function run(task) {
  work.abort();
  work = new AbortController();
  const { signal } = work;
  hideProblem();
  try {
    await task(signal);
  } catch (error) {
    if (signal.aborted) return;
    work.abort();
    show.askNoMore();
    showProblem(error, () => run(task));
  }
}

async function start() {
  const names = await models();
  if (!names.length) {
    throw new Problem("The server has no detector", "Build one with: detserve build FILE --name NAME");
  }
  fill($("model"), names);
  fill($("other"), ["", ...names]);
  await learnChosen();
  if (repeat) await repeat(work.signal);
}

function fill(select, names) {
  const { value } = select;
  select.replaceChildren(...names.map((name) => new Option(name || "none", name)));
  if (names.includes(value)) select.value = value;
}

/** The first detector's own threshold is where the slider starts. */
async function learnChosen() {
  const cards = await Promise.all(show.chosenModels().map(describe));
  cards.forEach(({ labels }) => show.learnLabels(labels));
  $("about").textContent = `${cards[0].name} finds ${listed(cards[0].labels)}.`;
  if (!$("score").dataset.moved) $("score").value = cards[0].thresholds.score;
  show.render();
}

function listed(labels) {
  const more = labels.length - MOST_LISTED;
  return more > 0 ? `${labels.slice(0, MOST_LISTED).join(", ")} and ${more} more` : labels.join(", ");
}

const answersOf = (picture, signal) =>
  Promise.all(show.chosenModels().map((model) => detect(model, picture, signal)));

/* Pictures */

function open(files) {
  if (files.length === 1 && isVideo(files[0].file)) {
    const [{ name, file }] = files;
    return openFilm(name, () => openVideo(video, file), true);
  }
  const { pictures, others } = picturesOf(files);
  if (!pictures.length) {
    return showProblem(new Problem("There is no picture here", "A picture, a folder of pictures or one video is expected."));
  }
  entries = pictures;
  $("pictures").replaceChildren(...entries.map(({ name }, i) => new Option(name, i)));
  $("pictures").selectedIndex = 0;
  $("left-out").textContent = others ? `Left out: ${others} of another kind.` : "";
  begin();
  repeat = askEntries;
  return run(repeat);
}

/** What the last source has left goes. */
function begin() {
  clearLegend();
  document.body.classList.add("begun");
  $("pictures-section").hidden = $("save-all").hidden = entries.length < 2;
  $("page").classList.toggle("many", entries.length > 1);
  $("page").classList.remove("answered");
}

/** Show the selected picture, and ask about all that have no answer. */
async function askEntries(signal) {
  await look();
  let done = entries.filter(answered).length;
  await askAll(
    entries.filter((entry) => !answered(entry)),
    async (entry) => {
      signal.throwIfAborted();
      await askOne(entry, signal);
      done += 1;
      $("progress").textContent = done < entries.length ? `${done} of ${entries.length}` : "";
    },
  );
  sayChanged();
}

const answered = ({ answers, problem }) => Boolean(answers || problem);

async function askOne(entry, signal) {
  try {
    entry.answers = await answersOf(entry.file, signal);
  } catch (error) {
    if (!error.ofPicture) throw error;
    entry.problem = error;
  }
  writeLine(entry);
  if (entry === selected()) showEntry(entry);
}

const selected = () => entries[$("pictures").selectedIndex];

async function look() {
  const entry = selected();
  const bitmap = await bitmapOf(entry.file);
  if (entry === selected()) {
    show.showPicture(bitmap);
    entry.note = bitmap ? "" : "The browser cannot show this format. ";
    hideProblem();
    showEntry(entry);
  }
  bitmap?.close();
}

function showEntry(entry) {
  if (entry.answers) return show.showAnswers(entry);
  show.showNoAnswers(entry.problem ? "" : `Asking ${show.chosenModels().join(" and ")} …`);
  if (entry.problem) showProblem(entry.problem);
}

function writeLine(entry) {
  const { lists, differences } = entry.answers ? show.visible(entry.answers) : {};
  const option = $("pictures").options[entries.indexOf(entry)];
  const line = lineOf(entry, lists, differences);
  if (option.text !== line) option.text = line;
}

function sayChanged() {
  const both = entries.filter(({ answers }) => answers?.length === 2);
  const changed = both.filter(({ answers }) => show.visible(answers).differences.changed);
  $("changed").textContent = both.length > 1 ? `${changed.length} of ${both.length} pictures differ.` : "";
}

/** Another score or class: no request is needed. */
function filter() {
  show.render();
  if (entries.length > 1) entries.forEach(writeLine);
  sayChanged();
}

async function changeModel() {
  for (const entry of entries) entry.answers = entry.problem = null;
  await run(async (signal) => {
    await learnChosen();
    await repeat?.(signal);
  });
}

/* Camera and video */

function openFilm(name, openIt, seekable) {
  entries = [];
  begin();
  repeat = null;
  return run(async (signal) => {
    signal.addEventListener("abort", () => closeFilm());
    await openIt(signal);
    $("film").hidden = false;
    $("seek-label").hidden = !(seekable && Number.isFinite(video.duration));
    $("summary").setAttribute("aria-live", "off");
    await eachFrame(video, (jpeg, frame) => showFrame(name, jpeg, frame, signal), showRate, signal);
  });
}

async function showFrame(name, jpeg, frame, signal) {
  const answers = await answersOf(jpeg, signal);
  if (answers.length !== show.chosenModels().length) return;
  show.showPicture(frame);
  show.showAnswers({ name, answers });
}

function showRate(perSecond) {
  $("rate").textContent = `${perSecond.toFixed(1)} frames/s`;
}

function closeFilm() {
  closeLive(video);
  $("film").hidden = true;
  $("rate").textContent = "";
  $("summary").setAttribute("aria-live", "polite");
}

/* Controls */

$("choose").addEventListener("click", () => $("files").click());
$("choose-folder").addEventListener("click", () => $("folder").click());
for (const input of [$("files"), $("folder")]) input.addEventListener("change", () => open(chosen(input)));
$("camera").addEventListener("click", () => openFilm("camera.jpg", (signal) => openCamera(video, signal), false));

$("stop").addEventListener("click", () => work.abort());
$("pause").addEventListener("click", () => (video.paused ? video.play() : video.pause()));
for (const kind of ["play", "pause"]) {
  video.addEventListener(kind, () => ($("pause").textContent = video.paused ? "Play" : "Pause"));
}
video.addEventListener("timeupdate", () => ($("seek").value = (1000 * video.currentTime) / video.duration || 0));
$("seek").addEventListener("input", () => (video.currentTime = ($("seek").value / 1000) * video.duration));

$("model").addEventListener("change", changeModel);
$("other").addEventListener("change", changeModel);
$("pictures").addEventListener("change", look);
$("score").addEventListener("input", () => {
  $("score").dataset.moved = "yes";
  filter();
});
document.addEventListener("filter", filter);
for (const id of ["boxes-section", "call"]) $(id).addEventListener("toggle", () => show.render());

$("save-json").addEventListener("click", show.saveShownJson);
$("save-picture").addEventListener("click", show.saveDrawn);
$("save-all").addEventListener("click", () => show.saveJson(entries.filter(({ answers }) => answers), "pictures.json"));

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-language]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    show.render();
  });
}
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren($("code"));
    $("copied").textContent = "The code is selected; press Ctrl+C.";
  }
});

$("forget").addEventListener("click", () => {
  forgetKey();
  $("forget").hidden = true;
  run(start);
});

/* Drop and paste, anywhere */

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  transferred(event.dataTransfer).then(open);
});
document.addEventListener("paste", (event) => {
  if ([...event.clipboardData.items].some(({ kind }) => kind === "file")) {
    transferred(event.clipboardData).then(open);
  }
});

run(start);
