// Pictures from files: asked about in their order, looked at one at a time.

const AT_ONCE = 2;

/** Call `ask(entry)` for each entry, two at a time; the first error ends it, and is thrown. */
export async function askAll(entries, ask) {
  const left = entries.values(); // shared: each worker takes the next
  const worker = async () => {
    for (const entry of left) await ask(entry);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/** A line of the list: the name, and how many boxes of each detector. */
export function lineOf({ name, problem }, lists, differences) {
  if (problem) return `${name} – refused`;
  if (!lists) return name;
  const counts = lists.map((boxes) => boxes.length).join(" / ");
  return `${name} – ${counts}${differences?.changed ? ", differs" : ""}`;
}

/** The file as an upright bitmap, or null where the browser does not know its format. */
export async function bitmapOf(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    return null;
  }
}
