// Files out of a drop, a paste or a chooser, folders walked.

const PICTURE = /\.(avif|bmp|gif|jpe?g|jp2|png|tiff?|webp)$/i;
const VIDEO = /\.(avi|m4v|mkv|mov|mp4|mpe?g|ogv|webm)$/i;

export const isVideo = (file) => file.type.startsWith("video/") || VIDEO.test(file.name);
const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);

/** What a chooser's input holds, as [{name, file}]; the input is emptied, so the same can be chosen again. */
export function chosen(input) {
  const found = [...input.files].map((file) => ({ name: file.webkitRelativePath || file.name, file }));
  input.value = "";
  return found;
}

/** What was dropped or pasted, as [{name, file}]. Call it in the event: the browser empties `transfer` after it. */
export function transferred(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  return Promise.all(entries.map((entry) => walked(entry))).then((found) => found.flat());
}

/** Pictures in the order of their names, and how many files are something else. */
export function picturesOf(files) {
  const pictures = files.filter(({ file }) => isPicture(file));
  pictures.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  return { pictures, others: files.length - pictures.length };
}

async function walked(entry) {
  if (entry instanceof File) return [{ name: entry.name, file: entry }];
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ name: entry.fullPath.replace(/^\//, ""), file }];
  }
  const found = [];
  for (const inner of await allOf(entry.createReader())) found.push(...(await walked(inner)));
  return found;
}

/** A reader hands out at most 100 entries at a time. */
async function allOf(reader) {
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}
