// The study page: choosing series, filing a request. request.js follows it, viewer.js shows it.

import { byId, call, words } from "./api.js";
import { follow, showSending } from "./request.js";

const channelOrder = ["T1c", "T1", "T2", "FLAIR"];

for (const form of document.querySelectorAll("form.study")) prepare(form);

function prepare(form) {
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  const button = form.querySelector("button[type=submit]");
  let order = preselected(boxes);
  let isUnderWay = false; // with these series and this model: asking again would change nothing
  const free = () => {
    isUnderWay = false;
    draw();
  };
  const draw = () => {
    for (const box of boxes) {
      const place = order.indexOf(box);
      box.checked = place >= 0;
      box.parentElement.querySelector(".order").textContent = place >= 0 ? place + 1 : "";
    }
    button.disabled = isUnderWay || order.length === 0;
  };
  for (const box of boxes) {
    box.addEventListener("change", () => {
      order = box.checked ? [...order, box] : order.filter((other) => other !== box);
      free();
    });
  }
  form.elements.model?.addEventListener("change", free);
  draw();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    showSending(form); // ends what was shown before, of this study or another
    isUnderWay = true; // at once, so that it can't be pressed twice
    draw();
    try {
      const filed = await send(order.map((box) => box.value), form.elements.model?.value);
      follow(filed.request_id, filed.deduplicated ? words.already_running : "", free);
    } catch (error) {
      follow(null, error.message, free);
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

// The address names the request; anything else in it, like the link to the content, is none.
function followAddress() {
  const named = location.hash.slice(1);
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(named)) follow(named);
}

followAddress();
// On a narrow screen it lies below the studies.
if (location.hash) byId("request").scrollIntoView({ block: "nearest" });
window.addEventListener("hashchange", followAddress);
