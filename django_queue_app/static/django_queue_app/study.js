// The study page: files a request, follows it, shows the mask slice by slice.
// Only the public API and the slices of views.py are used, as any other front end would.

const api = "/api/mri/segmentation/";
const words = JSON.parse(document.getElementById("words").textContent);
const $ = (id) => document.getElementById(id);
const channelOrder = ["T1c", "T1", "T2", "FLAIR"];
const terminal = ["completed", "failed", "cancelled"];
let timer = 0;
let shown = null; // the request on the page

class Refused extends Error {}

async function call(path, options = {}) {
  const answer = await fetch(api + path, { credentials: "same-origin", ...options });
  const body = await answer.json().catch(() => ({ error: words.unreachable }));
  if (!answer.ok && body.success !== true) throw new Refused(body.error || words.unreachable);
  return body;
}

function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// --- choosing series -------------------------------------------------------------------------

for (const form of document.querySelectorAll("form.study")) {
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  let order = [];
  const draw = () => {
    for (const box of boxes) {
      const place = order.indexOf(box);
      box.checked = place >= 0;
      box.parentElement.querySelector(".order").textContent = place >= 0 ? place + 1 : "";
    }
    form.querySelector("button").disabled = order.length === 0;
  };
  for (const name of channelOrder) {
    const box = boxes.find((candidate) => candidate.dataset.sequence === name);
    if (box) order.push(box);
  }
  if (boxes.length === 1) order = [boxes[0]];
  for (const box of boxes) {
    box.addEventListener("change", () => {
      order = box.checked ? [...order, box] : order.filter((other) => other !== box);
      draw();
    });
  }
  draw();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true; // at once, so that it can't be pressed twice
    showProblem("");
    $("request").hidden = false;
    $("headline").textContent = words.sending;
    const ids = order.map((box) => box.value);
    try {
      const filed = await call(`series/${ids[0]}/segment/`, {
        method: "POST",
        headers: { "Content-Type": "application/json", Prefer: "respond-async" },
        body: JSON.stringify({ sequence_series_ids: ids }),
      });
      follow(filed.request_id);
    } catch (error) {
      $("headline").textContent = words.failed;
      showProblem(error.message);
    } finally {
      button.disabled = false;
    }
  });
}

// --- following a request ---------------------------------------------------------------------

function follow(requestId) {
  history.replaceState(null, "", `#${requestId}`); // survives a reload; holds no patient data
  shown = requestId;
  $("request").hidden = false;
  $("result").hidden = true;
  clearTimeout(timer);
  look(requestId);
}

async function look(requestId) {
  if (shown !== requestId) return;
  let wait = document.hidden ? 5000 : 1000;
  try {
    const status = await call(`status/${requestId}/`);
    if (shown !== requestId) return;
    draw(status);
    if (terminal.includes(status.status)) return;
  } catch (error) {
    $("detail").textContent = error instanceof Refused ? error.message : words.unreachable;
    wait = 5000;
  }
  timer = setTimeout(() => look(requestId), wait + Math.random() * 300);
}

function draw(status) {
  const stage = status.status === "processing" && status.stage ? status.stage : status.status;
  $("headline").textContent = words[stage] || stage;
  const progress = $("progress");
  progress.hidden = terminal.includes(status.status);
  if (status.status === "processing" && status.progress != null) progress.value = status.progress;
  else progress.removeAttribute("value");
  const place = status.place_in_queue;
  $("detail").textContent =
    status.status === "pending" && place ? words.place.replace("%s", place) : "";
  $("cancel").hidden = terminal.includes(status.status);
  $("retry").hidden = !["failed", "cancelled"].includes(status.status);
  showProblem(status.status === "failed" && status.failure ? status.failure.message : "");
  if (status.status === "completed") showResult(status.result || status);
}

$("cancel").addEventListener("click", () => act("cancel"));
$("retry").addEventListener("click", () => act("retry"));

async function act(verb) {
  try {
    const body = await call(`requests/${shown}/${verb}/`, { method: "POST" });
    follow(body.request_id || shown);
  } catch (error) {
    showProblem(error.message);
  }
}

// --- the result ------------------------------------------------------------------------------

function showResult(result) {
  $("result").hidden = false;
  const found = result.tumor_detected;
  $("headline").textContent = found ? words.completed : words.nothing_found;
  const rows = (result.segments || []).map((segment) => {
    const row = document.createElement("tr");
    row.append(cell(segment.label), cell(`${Number(segment.volume_ml).toFixed(2)} mL`));
    return row;
  });
  $("segments").replaceChildren(...rows);
  const model = result.model;
  $("model").textContent = model ? `${model.name} ${model.version} · ${words.research}` : "";
  $("warnings").replaceChildren(...(result.warnings || []).map((text) => item(text)));
  const links = ["mask.dcm", "mask.nii.gz", "preview.png", "report.json"].map((name) => {
    const link = document.createElement("a");
    link.href = `${api}requests/${shown}/${name}`;
    link.textContent = name;
    return link;
  });
  $("downloads").replaceChildren(...links);
  if (result.seg_instance_id) showSlices(result).catch((error) => showProblem(error.message));
}

function cell(text) {
  const element = document.createElement("td");
  element.textContent = text;
  return element;
}

function item(text) {
  const element = document.createElement("li");
  element.textContent = text;
  return element;
}

async function showSlices(result) {
  const [frames, grid] = await Promise.all([
    call(`instances/${result.seg_instance_id}/frames/`),
    fetch(`/viewer/series/${result.series_id}/`).then((answer) => answer.json()),
  ]);
  const slider = $("slider");
  slider.max = frames.num_frames - 1;
  const first = result.start_slice_index ?? 0;
  const last = result.end_slice_index ?? frames.num_frames - 1;
  slider.value = Math.round((first + last) / 2);
  for (const side of ["top", "bottom", "left", "right"])
    document.querySelector(`.letter.${side}`).textContent = grid.letters[side];
  const show = () => showSlice(result.series_id, frames, Number(slider.value));
  slider.oninput = show;
  $("overlay").onchange = show;
  show();
}

function showSlice(seriesId, frames, index) {
  $("position").textContent = `${index + 1} / ${frames.num_frames}`;
  $("slice").src = `/viewer/series/${seriesId}/slices/${index}.png`;
  const mask = new Image();
  mask.onload = () => tint(mask);
  mask.src = `data:image/png;base64,${frames.frames[index].mask_base64}`;
}

function tint(mask) {
  const canvas = $("mask");
  canvas.width = mask.width;
  canvas.height = mask.height;
  const context = canvas.getContext("2d");
  if (!$("overlay").checked) return;
  context.drawImage(mask, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const inside = pixels.data[at] > 0;
    pixels.data.set(inside ? [255, 60, 60, 255] : [0, 0, 0, 0], at);
  }
  context.putImageData(pixels, 0, 0);
}

if (location.hash.length > 1) follow(location.hash.slice(1));
