// Frames of a camera or a video file: one in flight at a time, and the next is the newest.

import { Problem } from "./calls.js";

const LONGEST_SIDE_PX = 1280;
const QUALITY = 0.85;
const AVERAGED = 10;

/** Show the camera in `video`, until stopped. */
export async function openCamera(video, signal) {
  if (!navigator.mediaDevices) {
    throw new Problem("The browser gives no camera to this page", "Open it by https, or as localhost.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: LONGEST_SIDE_PX } } });
  } catch (error) {
    throw new Problem(...cameraProblem(error));
  }
  if (signal.aborted) return stream.getTracks().forEach((track) => track.stop());
  video.srcObject = stream;
  return video.play();
}

function cameraProblem(error) {
  if (error.name === "NotAllowedError") {
    return ["The camera was not allowed", "Allow it for this page in the browser's settings, then try again."];
  }
  if (error.name === "NotFoundError") return ["There is no camera", "The browser found none on this device."];
  return ["The camera cannot be used", `Another program may hold it. The browser says: ${error.message}`];
}

/** Show a video file in `video`, until stopped. */
export async function openVideo(video, file) {
  video.src = URL.createObjectURL(file);
  try {
    await video.play();
  } catch {
    closeLive(video);
    throw new Problem("The browser cannot play this video", `${file.name}: it knows MP4 with H.264, WebM and Ogg. detserve detect reads more.`);
  }
}

/** Let go of the camera or the file. */
export function closeLive(video) {
  video.pause();
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
}

/**
 * Call `onFrame(jpeg, canvas)` for the newest frame, and again when it has returned, until `signal` aborts.
 * `onRate` gets frames a second. The canvas is used again for the next frame.
 */
export async function eachFrame(video, onFrame, onRate, signal) {
  const canvas = document.createElement("canvas");
  const ends = [];
  for (;;) {
    await nextFrame(video, signal);
    if (signal.aborted) return;
    await onFrame(await captured(video, canvas), canvas);
    ends.push(performance.now());
    if (ends.length > AVERAGED) ends.shift();
    if (ends.length > 1) onRate(((ends.length - 1) * 1000) / (ends.at(-1) - ends[0]));
  }
}

/** The next frame that is new; also one to stay, where the video has been paused or set to another position. */
function nextFrame(video, signal) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const done = () => {
      over.abort();
      resolve();
    };
    const once = { once: true, signal: over.signal };
    signal.addEventListener("abort", done, once);
    for (const kind of ["pause", "seeked"]) video.addEventListener(kind, done, once);
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else if (!video.paused) requestAnimationFrame(done);
  });
}

async function captured(video, canvas) {
  const scale = Math.min(1, LONGEST_SIDE_PX / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}
