// What was found, in words, tables and files.

import { classColor } from "./drawing.js";
import { nameKey } from "./compare.js";

/** What the stages of `timings` are called here; others by their own names. */
const STAGES = { reading: "reading", detector: "in Triton" };

/** The legend's buttons by class. */
const chips = new Map();
const $ = (id) => document.getElementById(id);
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "es"}`;

/** An element with text and children. */
function element(tag, text, children = []) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** How many boxes of which class; `lists` has the boxes of each of the `models`. */
export function summary(models, lists, differences, score) {
  if (differences) {
    const { matched, moved, missed, extra } = differences;
    const counts = models.map((model, i) => `${model} ${lists[i].length}`).join(", ");
    return `${counts}: ${matched} in both (${moved} moved), ${missed} only ${models[0]}, ${extra} only ${models[1]}.`;
  }
  if (!lists[0].length) return `No box with a score of ${score.toFixed(2)} or more.`;
  const counts = [...countsBy(lists[0], ({ label }) => label)].sort((a, b) => b[1] - a[1]);
  const parts = counts.map(([label, count]) => `${count} ${label}`);
  return `${counted(lists[0].length, "box")}: ${parts.join(", ")}.`;
}

function countsBy(boxes, keyOf) {
  const counts = new Map();
  for (const one of boxes) counts.set(keyOf(one), (counts.get(keyOf(one)) ?? 0) + 1);
  return counts;
}

/**
 * A button for each class that was found since the legend was cleared, pressed while it is shown.
 * `lists` has all boxes at the slider's score; `hidden` is a set of class keys.
 */
export function showLegend(lists, hidden, colors, onToggle) {
  const counts = lists.map((boxes) => countsBy(boxes, ({ label }) => nameKey(label)));
  for (const { label } of lists.flat()) {
    if (!chips.has(nameKey(label))) addChip(label, colors, onToggle);
  }
  for (const [name, chip] of chips) {
    const numbers = counts.map((count) => count.get(name) ?? 0).join(" / ");
    chip.setAttribute("aria-pressed", String(!hidden.has(name)));
    chip.lastChild.textContent = ` ${numbers}`;
  }
}

export function clearLegend() {
  chips.clear();
  $("legend").replaceChildren();
}

function addChip(label, colors, onToggle) {
  const name = nameKey(label);
  const swatch = element("span");
  swatch.className = "swatch";
  swatch.style.background = classColor(colors.get(name) ?? 0);
  const chip = element("button", undefined, [swatch, label, element("span")]);
  chip.type = "button";
  chip.addEventListener("click", () => onToggle(name));
  chips.set(name, chip);
  $("legend").append(chip);
}

/** Counts by the words of `detserve canary`. */
export function showDifferences(models, differences) {
  $("differences").hidden = !differences;
  if (!differences) return;
  const { matched, moved, missed, extra } = differences;
  const rows = [
    ["same", "in both", matched - moved],
    ["moved", "in both, moved", moved],
    ["alone", `only ${models[0]}`, missed],
    ["alone", `only ${models[1]}`, extra],
  ].map(([mark, words, number]) => {
    const line = element("span");
    line.className = `line ${mark}`;
    return element("tr", undefined, [element("th", undefined, [line, words]), element("td", String(number))]);
  });
  $("differences").querySelector("tbody").replaceChildren(...rows);
}

/** Milliseconds by stage, as the server says, and what is left of the browser's wait. */
export function showTimes(models, answers) {
  const columns = answers.map(({ timings, roundTripMs }) => stages(timings, roundTripMs));
  const names = [...new Set(columns.flatMap((column) => [...column.keys()]))];
  const most = Math.max(...columns.flatMap((column) => [...column.values()]));
  const head = element("tr", undefined, [element("th", ""), ...models.map((model) => element("th", model))]);
  $("times").querySelector("thead").replaceChildren(...(models.length > 1 ? [head] : []));
  const rows = names.map((name) => {
    const cells = columns.map((column) => {
      const bar = element("span");
      bar.className = "bar";
      bar.style.width = `${(100 * (column.get(name) ?? 0)) / most}%`;
      return element("td", undefined, [bar, `${(column.get(name) ?? 0).toFixed(1)} ms`]);
    });
    return element("tr", undefined, [element("th", name), ...cells]);
  });
  $("times").querySelector("tbody").replaceChildren(...rows);
}

function stages(timings = {}, roundTripMs) {
  const named = Object.entries(timings).map(([name, ms]) => [STAGES[name] ?? name, ms]);
  const spent = named.reduce((sum, [, ms]) => sum + ms, 0);
  return new Map([...named, ["on the way", Math.max(0, roundTripMs - spent)], ["in all", roundTripMs]]);
}

/** A row for each box; `marks` are null, or words for each. */
export function showBoxes(models, lists, differences) {
  const words = { same: "in both", moved: "moved", alone: "only here" };
  const names = [...(differences ? ["detector"] : []), "class", "score", "x1, y1, x2, y2", ...(differences ? ["mark"] : [])];
  $("boxes").querySelector("thead").replaceChildren(element("tr", undefined, names.map((name) => element("th", name))));
  const rows = lists.flatMap((boxes, i) =>
    boxes.map(({ label, score, box }, j) => {
      const cells = [label, score.toFixed(3), box.map((value) => value.toFixed(1)).join(", ")];
      if (differences) cells.unshift(models[i]), cells.push(words[differences.marks[i][j]]);
      return element("tr", undefined, cells.map((text) => element("td", text)));
    }),
  );
  $("boxes").querySelector("tbody").replaceChildren(...rows);
}

/** Hand `blob` to the browser to keep as `name`. */
export function save(blob, name) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
