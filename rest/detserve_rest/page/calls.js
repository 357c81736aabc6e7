// Calls of the REST service. What goes wrong is a Problem, in plain words.

import { authorization, key } from "./key.js";

/** The score that is asked for: above it, the slider needs no request. */
export const LOWEST_SCORE = 0.05;
const PATIENCE = 5;

const TITLES = {
  403: "This key may not do that",
  404: "There is no such detector",
  413: "The picture is too large",
  502: "The service behind the gateway does not answer",
  503: "The service behind the gateway does not answer",
  504: "The server took too long",
};

/** `message` is a title, `detail` a sentence; `status` is HTTP's, 0 where nothing answered. */
export class Problem extends Error {
  constructor(title, detail, { status = 0, requestId = "", retryAfterS } = {}) {
    super(title);
    Object.assign(this, { detail, status, requestId, retryAfterS });
  }

  /** Whether it is about this one picture, so that others may fare better. */
  get ofPicture() {
    return [413, 415, 422].includes(this.status);
  }

  /** Whether another key may help. */
  get wantsKey() {
    return this.status === 401 || (this.status === 403 && key() !== null);
  }
}

/** The names of the detectors. */
export async function models() {
  return (await ask("v1/models")).models.map((one) => one.name ?? one);
}

/** What a detector says of itself: labels, input, thresholds. */
export const describe = (model) => ask(`v1/models/${encodeURIComponent(model)}`);

/** Where a picture is sent, absolute. */
export function detectUrl(model, score) {
  return new URL(`v1/models/${encodeURIComponent(model)}/detect?score=${score}`, document.baseURI).href;
}

/**
 * Detections with at least the lowest score, best first; `roundTripMs` is what the browser waited.
 * A server that says when it has time again is asked again then, some times.
 */
export async function detect(model, picture, signal) {
  const options = {
    method: "POST",
    body: picture,
    headers: { "Content-Type": picture.type || "application/octet-stream" },
    signal,
  };
  for (let left = PATIENCE; ; left -= 1) {
    const start = performance.now();
    try {
      const answer = await ask(detectUrl(model, LOWEST_SCORE), options);
      return { ...answer, roundTripMs: performance.now() - start };
    } catch (problem) {
      if (!(problem.retryAfterS >= 0 && left)) throw problem;
      await new Promise((resolve) => setTimeout(resolve, problem.retryAfterS * 1000));
    }
  }
}

async function ask(path, { headers, ...options } = {}) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      ...options,
      headers: { ...headers, ...authorization() },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw await unanswered(options.body);
  }
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

/** A server may close the connection in the middle of a picture that is too large for it. */
async function unanswered(body) {
  if (body && (await alive())) {
    const megabytes = (body.size / 1e6).toFixed(1);
    return new Problem(
      "The server broke off while the picture was sent",
      `The picture has ${megabytes} MB, which may be more than the server takes, or the file has changed since it was chosen.`,
      { status: 413 },
    );
  }
  return new Problem(
    "The server does not answer",
    `Nothing answers at ${location.host}. Is it still running? Start it with: detserve rest`,
  );
}

async function alive() {
  try {
    await fetch(new URL("v1/models", document.baseURI), { headers: authorization() });
    return true;
  } catch {
    return false;
  }
}

async function problemOf(response) {
  const { status } = response;
  const written = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("retry-after") ?? NaN);
  return new Problem(titleOf(status, written), written.detail ?? written.error ?? "", {
    status,
    requestId: written.request_id ?? response.headers.get("x-request-id") ?? "",
    retryAfterS: (status === 429 || written.type?.endsWith(":overloaded")) && retryAfter >= 0 ? retryAfter : undefined,
  });
}

function titleOf(status, written) {
  if (status === 401) return key() ? "The server does not know this key" : "The server wants a key";
  return written.title ?? TITLES[status] ?? `The server answered ${status}`;
}
