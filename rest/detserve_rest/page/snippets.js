// The call that the page makes, for a terminal or a program.

import { detectUrl } from "./calls.js";
import { key } from "./key.js";

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Where detserve's own client finds Triton: behind the same gateway, else where it listens by default. */
const triton = () => (location.protocol === "https:" ? location.origin : `grpc://${location.hostname}:8001`);

/** How each language says it. */
export const SNIPPETS = {
  curl({ model, picture, score }) {
    const shown = key() ? ` \\\n    --header "Authorization: Bearer $DETSERVE_API_KEY"` : "";
    const form = quoted(`image=@"${picture.replace(/[\\"]/g, "\\$&")}"`);
    return `curl ${quoted(detectUrl(model, score))} \\\n    --form ${form}${shown}\n`;
  },
  python({ model, picture, score }) {
    const names = [triton(), model, picture].map((one) => JSON.stringify(one));
    return `import detserve

with detserve.Client(${names[0]}, ${names[1]}) as client:
    for detection in client.detect(${names[2]}, score_threshold=${score}):
        print(detection.label, detection.score, detection.box_px)
`;
  },
  javascript({ model, picture, score }) {
    const shown = key() ? "\n  headers: { Authorization: `Bearer ${process.env.DETSERVE_API_KEY}` }," : "";
    return `import { readFile } from "node:fs/promises";

const response = await fetch(${JSON.stringify(detectUrl(model, score))}, {
  method: "POST",${shown}
  body: await readFile(${JSON.stringify(picture)}),
});
const { detections } = await response.json();
for (const { label, score, box } of detections) console.log(label, score, box);
`;
  },
};
