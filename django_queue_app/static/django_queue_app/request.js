// Follows one request: place in the queue, stage, percent, time; and what failed, with the way on.

import {
  byId,
  call,
  fill,
  formatDuration,
  formatNumber,
  Refused,
  setText,
  words,
} from "./api.js";
import { hideResult, showResult } from "./viewer.js";

const terminal = ["completed", "failed", "cancelled"];
const doubleClick = 500; // ms
let timer = 0;
let shown = null; // the id of the request on the page
let drawn = ""; // what the viewer shows already
let clock = null; // {elapsed, at}: the site's time so far, and when it said so
let remark = ""; // said beside place and time
let onEnd = () => {}; // told once the page has done with the request

/** Show at once that something happens, before the site has answered. */
export function showSending(form) {
  stop();
  hideResult();
  byId("hint")?.setAttribute("hidden", "");
  byId("request").hidden = false;
  byId("patient").textContent = patientOf(form);
  byId("headline").textContent = words.sending;
  byId("detail").textContent = "";
  byId("progress").hidden = false;
  byId("progress").removeAttribute("value");
  byId("cancel").hidden = byId("retry").hidden = true;
  showProblem("");
  // Not at once: the second click of a double click would fall on something else.
  setTimeout(() => byId("request").scrollIntoView({ block: "nearest" }), doubleClick);
}

/** Follow a request until it ends; no id: say why there is none. */
export function follow(requestId, note = "", ended = () => {}) {
  stop();
  onEnd = ended;
  hideResult();
  byId("hint")?.setAttribute("hidden", "");
  byId("request").hidden = false;
  if (!requestId) {
    byId("headline").textContent = words.failed;
    byId("progress").hidden = true;
    showProblem(note);
    end();
    return;
  }
  history.replaceState(null, "", `#${requestId}`); // survives a reload; holds no patient data
  shown = requestId;
  remark = note;
  look(requestId);
}

function end() {
  onEnd();
  onEnd = () => {};
}

function stop() {
  end();
  clearTimeout(timer);
  remark = "";
  shown = null;
  clock = null;
  drawn = "";
}

function showProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

async function look(requestId) {
  if (shown !== requestId) return;
  let wait = document.hidden ? 5000 : 1000;
  try {
    const status = await call(`status/${requestId}/`);
    if (shown !== requestId) return;
    showProblem("");
    draw(status);
    if (terminal.includes(status.status)) return;
  } catch (error) {
    if (shown !== requestId) return;
    if (error instanceof Refused) {
      showRefused(error);
      return;
    }
    // What could not be sent stays to be read until the site answers again.
    if (byId("problem").hidden) showProblem(words.unreachable);
    wait = 5000;
  }
  timer = setTimeout(() => look(requestId), wait + Math.random() * 300);
}

function showRefused(error) {
  end();
  clock = null;
  byId("headline").textContent = error.code === "signed_out" ? words.signed_out : words.failed;
  byId("detail").textContent = "";
  byId("progress").hidden = true;
  byId("cancel").hidden = byId("retry").hidden = true;
  showProblem(error.code === "request_not_found" ? words.no_such_request : error.message);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden || !shown || !timer) return;
  clearTimeout(timer);
  look(shown);
});

function draw(status) {
  const isOver = terminal.includes(status.status);
  const stage = status.status === "processing" && status.stage ? status.stage : status.status;
  byId("patient").textContent = patientOf(formOf(status.series_id));
  setText("headline", headlineOf(status, stage));
  const progress = byId("progress");
  progress.hidden = isOver;
  if (status.status === "processing" && status.progress != null) progress.value = status.progress;
  else progress.removeAttribute("value");
  clock = isOver ? null : { elapsed: status.elapsed_seconds, at: performance.now(), status };
  byId("detail").textContent = isOver ? "" : detailOf(status, status.elapsed_seconds);
  byId("cancel").hidden = isOver;
  byId("retry").hidden = !["failed", "cancelled"].includes(status.status);
  if (status.status === "failed" && status.failure)
    showProblem(`${status.failure.message} ${words.try_again_hint}`);
  if (isOver) end();
  if (status.status === "completed" && drawn !== status.request_id) {
    drawn = status.request_id;
    byId("detail").textContent = fill(words.worker, { name: status.processed_by || "—" });
    showResult(status.result, formOf(status.series_id), status.artifacts);
  }
}

function headlineOf(status, stage) {
  const reason = status.failure && words.failures[status.failure.code];
  if (reason) return fill(words.failed_because, { reason });
  if (status.result && !status.result.tumor_detected) return words.nothing_found;
  return words[stage] || stage;
}

function detailOf(status, elapsed) {
  const parts = remark ? [remark] : [];
  if (status.status === "pending" && status.place_in_queue)
    parts.push(fill(words.place, { place: formatNumber(status.place_in_queue) }));
  if (status.status === "processing" && status.progress != null)
    parts.push(fill(words.percent, { percent: formatNumber(status.progress * 100) }));
  if (elapsed != null) parts.push(fill(words.elapsed, { time: formatDuration(elapsed) }));
  if (status.expected_seconds != null)
    parts.push(fill(words.expected, { time: formatDuration(status.expected_seconds) }));
  if (status.attempts > 1)
    parts.push(
      fill(words.attempt, {
        number: formatNumber(status.attempts),
        most: formatNumber(status.max_attempts),
      }),
    );
  return parts.join(" · ");
}

// Between two answers the time goes on.
setInterval(() => {
  if (!clock || document.hidden) return;
  const elapsed = clock.elapsed + (performance.now() - clock.at) / 1000;
  byId("detail").textContent = detailOf(clock.status, elapsed);
}, 1000);

/** Find the study on the page that a series belongs to. */
function formOf(seriesId) {
  return document.querySelector(`input[name=series][value="${CSS.escape(seriesId)}"]`)?.form;
}

function patientOf(form) {
  if (!form) return "";
  const [name, line] = ["h2", ".study-line"].map((one) =>
    form.querySelector(one).textContent.trim().replace(/\s+/g, " "),
  );
  return line ? `${name} · ${line}` : name;
}

byId("cancel").addEventListener("click", () => act("cancel"));
byId("retry").addEventListener("click", () => act("retry"));

async function act(verb) {
  const button = byId(verb);
  button.disabled = true;
  try {
    const body = await call(`requests/${shown}/${verb}/`, { method: "POST" });
    follow(body.request_id || shown);
  } catch (error) {
    showProblem(error.message);
  } finally {
    button.disabled = false;
  }
}
