// The study page: choosing series, filing a request. request.js follows it, viewer.js shows it.

import { byId, call, words } from "./api.js";
import { follow, showSending } from "./request.js";

const channelOrder = ["T1c", "T1", "T2", "FLAIR"];

for (const form of document.querySelectorAll("form.study")) prepare(form);

function prepare(form) {
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  const button = form.querySelector("button[type=submit]");
  let order = preselected(boxes);
  const draw = () => {
    for (const box of boxes) {
      const place = order.indexOf(box);
      box.checked = place >= 0;
      box.parentElement.querySelector(".order").textContent = place >= 0 ? place + 1 : "";
    }
    button.disabled = order.length === 0;
  };
  for (const box of boxes) {
    box.addEventListener("change", () => {
      order = box.checked ? [...order, box] : order.filter((other) => other !== box);
      draw();
    });
  }
  draw();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true; // at once, so that it can't be pressed twice
    showSending(form);
    try {
      const filed = await send(order.map((box) => box.value), form.elements.model?.value);
      follow(filed.request_id, filed.deduplicated ? words.already_running : "");
    } catch (error) {
      follow(null, error.message);
    } finally {
      button.disabled = order.length === 0;
    }
  });
}

function preselected(boxes) {
  if (boxes.length === 1) return [boxes[0]];
  const found = channelOrder.map((name) => boxes.find((box) => box.dataset.sequence === name));
  const known = found.filter(Boolean);
  if (known.length) return known;
  // Phases of one dynamic series come in the order in which they were taken.
  return boxes.filter((box) => box.dataset.sequence === "DCE");
}

function send(seriesIds, model) {
  const body = { sequence_series_ids: seriesIds };
  if (model) body.model = model;
  return call(`series/${seriesIds[0]}/segment/`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Prefer: "respond-async" },
    body: JSON.stringify(body),
  });
}

// --- finding a patient -----------------------------------------------------------------------

byId("filter")?.addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLocaleLowerCase();
  for (const form of document.querySelectorAll("form.study"))
    form.hidden = !form.textContent.toLocaleLowerCase().includes(wanted);
});

for (const link of document.querySelectorAll(".earlier a"))
  link.addEventListener("click", (event) => {
    event.preventDefault();
    follow(link.hash.slice(1));
  });

// The language switch loads the page anew: the request on it comes along.
for (const form of document.querySelectorAll("form.languages"))
  form.addEventListener("submit", () => {
    form.elements.next.value = location.pathname + location.hash;
  });

if (location.hash.length > 1 && location.hash !== "#main") follow(location.hash.slice(1));
window.addEventListener("hashchange", () => {
  if (location.hash.length > 1 && location.hash !== "#main") follow(location.hash.slice(1));
});
