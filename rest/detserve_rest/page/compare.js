// Two detectors on one picture: what both find, what moved, what only one has. The rule of `detserve canary`.

const MATCH_IOU = 0.5;
const MOVED_BELOW_IOU = 0.9;

/** What makes two class names the same: case and outer blanks do not count. */
export const nameKey = (label) => label.trim().toUpperCase().toLowerCase();

/**
 * Pair boxes of the same class, greatest overlap first, each at most once, at IoU 0.5 or more.
 * `marks` has for each list a mark for each box: "same", "moved" or "alone".
 */
export function compare(old, found) {
  const marks = [old.map(() => "alone"), found.map(() => "alone")];
  const counts = { matched: 0, moved: 0, missed: old.length, extra: found.length };
  for (const { a, b, iou } of candidates(found, old)) {
    if (marks[1][a] !== "alone" || marks[0][b] !== "alone") continue;
    marks[1][a] = marks[0][b] = iou < MOVED_BELOW_IOU ? "moved" : "same";
    counts.matched += 1;
    counts.moved += iou < MOVED_BELOW_IOU;
    counts.missed -= 1;
    counts.extra -= 1;
  }
  return { marks, ...counts, changed: counts.moved + counts.missed + counts.extra > 0 };
}

function candidates(found, old) {
  const pairs = [];
  found.forEach((left, a) =>
    old.forEach((right, b) => {
      if (nameKey(left.label) !== nameKey(right.label)) return;
      const iou = overlap(left.box, right.box);
      if (iou >= MATCH_IOU) pairs.push({ a, b, iou });
    }),
  );
  return pairs.sort((left, right) => right.iou - left.iou);
}

function overlap(left, right) {
  const width = Math.min(left[2], right[2]) - Math.max(left[0], right[0]);
  const height = Math.min(left[3], right[3]) - Math.max(left[1], right[1]);
  if (width <= 0 || height <= 0) return 0;
  const both = width * height;
  return both / (area(left) + area(right) - both);
}

const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
