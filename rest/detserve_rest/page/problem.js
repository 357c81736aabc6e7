// What went wrong, said above the picture; a key is asked for where one is wanted.

import { Problem } from "./calls.js";
import { keepKey, key } from "./key.js";

const $ = (id) => document.getElementById(id);
let again = null;

$("again").addEventListener("click", () => again?.());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey($("key").value.trim());
  $("key").value = "";
  $("forget").hidden = false;
  again?.();
});
$("forget").hidden = !key();

/** Show a Problem, or any other error as a failure of the page; `retry` is called for "Try again", or null. */
export function showProblem(error, retry) {
  const problem = error instanceof Problem ? error : new Problem("This page failed", String(error));
  if (problem !== error) console.error(error);
  again = retry;
  $("problem-title").textContent = problem.message;
  $("problem-detail").textContent = sentence(problem.detail);
  $("problem-id").textContent = problem.requestId ? `Request ${problem.requestId}` : "";
  $("key-form").hidden = !problem.wantsKey;
  $("again").hidden = !retry || problem.wantsKey;
  $("problem").hidden = false;
  $("problem").scrollIntoView({ block: "nearest" });
  if (problem.wantsKey) $("key").focus();
}

export function hideProblem() {
  $("problem").hidden = true;
}

function sentence(text) {
  if (!text) return "";
  const capital = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
