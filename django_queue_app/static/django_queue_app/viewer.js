// The result of a request: segments, the image with the mask over it, downloads.
// Two ways to show the image: planes.js (WebGL 2) and slices.js (any browser), one set of tools.

import { api, byId, element, fill, formatNumber, readFile, setText, words } from "./api.js";
import { isPossible, Planes } from "./planes.js";
import { Slices } from "./slices.js";

// Told apart by people who see fewer colours, too (Okabe and Ito), where the model names none.
const COLOURS = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [213, 94, 0],
  [204, 121, 167],
];
const TEN = 10;

let view = null; // Planes or Slices
let planes = null; // kept: a browser gives out few WebGL contexts
let current = null; // {result, segments, mask, images, next}

export function hideResult() {
  byId("result").hidden = true;
  current = null;
}

/** Show a completed request. `form` is its study on the page, if it is there. */
export async function showResult(result, form, artifacts) {
  const shown = { result, segments: [], mask: null, images: new Map(), next: 0, hidden: new Set() };
  current = shown;
  byId("result").hidden = false;
  byId("screen-patient").textContent = byId("patient").textContent;
  listDownloads(result, artifacts);
  shown.segments = await describeSegments(result, artifacts);
  if (current !== shown) return;
  listSegments(shown);
  listSeries(shown, form);
  byId("nothing").hidden = result.tumor_detected || hasVoxels(result);
  byId("jump").disabled = !hasVoxels(result);
  await open(shown, artifacts);
}

function hasVoxels(result) {
  return result.segments.some((one) => one.voxels > 0);
}

// --- what was found --------------------------------------------------------------------------

/** Give each segment the value that it has in the label map, and its colour. */
async function describeSegments(result, artifacts) {
  const names = artifacts.map((one) => one.name);
  const told = names.includes("report.json") ? await readReport(result.request_id) : [];
  return result.segments.map((one, index) => {
    const spec = told.find((other) => other.number === one.number) || {};
    return {
      ...one,
      value: spec.label_value ?? one.number,
      color: spec.color_rgb || COLOURS[index % COLOURS.length],
      name: (document.documentElement.lang === "ko" && spec.label_ko) || one.label,
    };
  });
}

// A report is the worker's own file, without the `success` that the API's answers have.
async function readReport(requestId) {
  const answer = await fetch(`${api}requests/${requestId}/report.json`).catch(() => null);
  const report = answer?.ok ? await answer.json().catch(() => ({})) : {};
  return report.segments || [];
}

function listSegments(shown) {
  byId("segment-table").hidden = !shown.segments.length;
  byId("segments").replaceChildren(...shown.segments.map((one) => segmentRow(shown, one)));
}

function segmentRow(shown, one) {
  const row = document.createElement("tr");
  const box = element("input", "", { type: "checkbox", "data-segment": one.number });
  box.checked = true;
  box.setAttribute("aria-label", fill(words.show, { name: one.name }));
  box.addEventListener("change", () => setHidden(shown, one.number, !box.checked));
  const swatch = element("span", "", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = `rgb(${one.color.join(" ")})`;
  const name = element("button", one.name, { type: "button", class: "link" });
  name.title = fill(words.go_to, { name: one.name });
  name.disabled = !one.voxels;
  name.addEventListener("click", () => goToSegment(one));
  const first = document.createElement("td");
  first.append(box, swatch, name);
  const volume = fill(words.millilitres, { volume: formatNumber(one.volume_ml, 2) });
  row.append(first, element("td", volume));
  return row;
}

function setHidden(shown, number, isHidden) {
  if (isHidden) shown.hidden.add(number);
  else shown.hidden.delete(number);
  view?.setHidden(shown.hidden);
}

function listDownloads(result, artifacts) {
  const links = artifacts.map((one) => {
    const item = document.createElement("li");
    const name = words.files[one.name];
    const link = element("a", name ? `${name} (${one.name})` : one.name, { href: one.url });
    if (!/\.(png|html)$/.test(one.name)) link.setAttribute("download", "");
    item.append(link);
    return item;
  });
  byId("downloads").replaceChildren(...links);
  byId("model").textContent = result.model.name ? fill(words.model, result.model) : "";
  byId("warnings").replaceChildren(...result.warnings.map((text) => element("li", text)));
}

function listSeries(shown, form) {
  const main = shown.result.series_id;
  const boxes = [...(form?.querySelectorAll("input[name=series]") || [])];
  const options = boxes.map((box) => ({ id: box.value, name: box.dataset.name }));
  if (!options.some((one) => one.id === main)) options.unshift({ id: main, name: "—" });
  byId("sequence").replaceChildren(
    ...options.map(({ id, name }) => {
      const option = element("option", id === main ? `${name} (${words.main_series})` : name);
      option.value = id;
      return option;
    }),
  );
  byId("sequence").value = main;
}

// --- showing it ------------------------------------------------------------------------------

async function open(shown, artifacts) {
  const mask = artifacts.find((one) => one.name === "mask.nii.gz");
  note(words.loading_images);
  try {
    if (!isPossible()) throw new Error(words.no_webgl);
    if (!mask) throw new Error(words.no_planes);
    shown.mask = await readFile(mask.url);
    await openPlanes(shown);
  } catch (error) {
    if (current === shown) await openSlices(shown, error.message);
  }
}

async function openPlanes(shown) {
  const image = await imageOf(shown, shown.result.series_id);
  if (current !== shown) return;
  showStage("planes-stage");
  byId("window-tools").hidden = false;
  planes ??= await Planes.start(byId("planes"), byId("viewer").dataset.vendor, {
    onMove: moved,
    onWindow: () => showWindow("own"),
  });
  view = planes;
  byId("planes").setAttribute("aria-label", words.planes_label);
  resetTools();
  await planes.show(image, shown.mask, shown.segments);
  tellConvention();
  note("");
  ready();
}

async function openSlices(shown, reason) {
  showStage("slices-stage");
  byId("window-tools").hidden = true;
  view = new Slices(byId("slices-stage"), { onMove: moved });
  resetTools();
  try {
    await view.show(shown.result.series_id, shown.result, shown.segments);
    tellConvention();
    note(reason);
    ready();
  } catch (error) {
    note(error.message);
  }
}

// Of slices that lie in a sagittal plane, neither side is the patient's right.
function tellConvention() {
  byId("convention").hidden = !(view === planes || view.isRadiological);
}

function showStage(id) {
  for (const one of ["planes-stage", "slices-stage"]) byId(one).hidden = one !== id;
}

// The percents are to be seen only: read aloud, they would not end.
function note(text, percent = "") {
  setText("screen-note", text);
  byId("screen-percent").textContent = percent;
}

// For whoever waits for the picture: a test, or a script.
function ready() {
  byId("viewer").dataset.ready = current.result.request_id;
}

async function imageOf(shown, seriesId) {
  if (!shown.images.has(seriesId)) {
    const image = await readFile(`/viewer/series/${seriesId}/volume.nii.gz`, (fraction) => {
      note(words.loading_images, fill(words.percent, { percent: formatNumber(fraction * 100) }));
    });
    shown.images.set(seriesId, image);
  }
  return shown.images.get(seriesId);
}

function moved(place) {
  const slider = byId("slider");
  slider.max = view.slices - 1;
  slider.value = place.slice;
  const number = fill(words.slice_of, {
    number: formatNumber(place.slice + 1),
    count: formatNumber(view.slices),
  });
  byId("position").textContent = number;
  slider.setAttribute("aria-valuetext", number);
  byId("readout").textContent = place.mm ? readout(place) : "";
}

function readout({ mm, value, label }) {
  // RAS in mm, said with the letters that a DICOM person reads.
  const side = (amount, plus, minus) =>
    `${amount >= 0 ? plus : minus} ${formatNumber(Math.abs(amount), 1)}`;
  const [x, y, z] = [side(mm[0], "R", "L"), side(mm[1], "A", "P"), side(mm[2], "S", "I")];
  const segment = current?.segments.find((one) => one.value === label);
  return [
    fill(words.position, { x, y, z }),
    fill(words.intensity, { value: formatNumber(value ?? 0, Number.isInteger(value) ? 0 : 2) }),
    segment ? segment.name : words.outside,
  ].join(" · ");
}

// --- tools -----------------------------------------------------------------------------------

function resetTools() {
  view.setHidden(new Set());
  byId("overlay").checked = true;
  applyTools();
  showWindow("auto");
}

function applyTools() {
  view.setMaskShown(byId("overlay").checked);
  view.setOpacity(byId("opacity").value / 100);
  view.setOutline(document.querySelector("input[name=style]:checked").value === "outline");
}

function showWindow(name) {
  byId("window").querySelector("[value=own]").hidden = name !== "own";
  byId("window").value = name;
}

function goToSegment(one) {
  const region = view?.regions.find((found) => found.label === one.value);
  if (region) goTo(region);
}

function nextLesion() {
  const lesions = view?.lesions || [];
  if (!lesions.length) return;
  const at = current.next++ % lesions.length;
  goTo(lesions[at]);
  note(
    fill(lesions[at].voxels === 1 ? words.lesion_of_one : words.lesion_of, {
      number: formatNumber(at + 1),
      count: formatNumber(lesions.length),
      voxels: formatNumber(lesions[at].voxels),
    }),
  );
}

function goTo(place) {
  if (place.mm) view.goTo(place.mm);
  else view.goToSlice(place.slice);
}

async function switchSeries(seriesId) {
  const shown = current;
  try {
    if (view === planes && planes) {
      const image = await imageOf(shown, seriesId);
      if (current !== shown) return;
      await planes.show(image, shown.mask, shown.segments);
      showWindow("auto");
      note("");
    } else {
      await view.show(seriesId, shown.result, shown.segments);
      tellConvention();
      note(seriesId === shown.result.series_id ? "" : words.other_grid);
    }
  } catch (error) {
    note(error.message);
  }
}

byId("slider").addEventListener("input", () => view?.goToSlice(Number(byId("slider").value)));
byId("overlay").addEventListener("change", () => view && applyTools());
byId("opacity").addEventListener("input", () => view && applyTools());
byId("style").addEventListener("change", () => view && applyTools());
byId("window").addEventListener("change", () => view?.setWindow?.(byId("window").value));
byId("sequence").addEventListener("change", () => switchSeries(byId("sequence").value));
byId("jump").addEventListener("click", nextLesion);
byId("help-button").addEventListener("click", () => byId("help").showModal());

// --- keys ------------------------------------------------------------------------------------

const keys = {
  ArrowUp: () => view.goToSlice(view.slice + 1),
  ArrowRight: () => view.goToSlice(view.slice + 1),
  ArrowDown: () => view.goToSlice(view.slice - 1),
  ArrowLeft: () => view.goToSlice(view.slice - 1),
  PageUp: () => view.goToSlice(view.slice + TEN),
  PageDown: () => view.goToSlice(view.slice - TEN),
  Home: () => view.goToSlice(0),
  End: () => view.goToSlice(view.slices - 1),
};
const letters = {
  m: () => byId("overlay").click(),
  o: () => document.querySelector("input[name=style]:not(:checked)").click(),
  j: nextLesion,
  s: () => cycle("sequence"),
  w: () => cycle("window"),
  "?": () => byId("help").showModal(),
};

function cycle(id) {
  const select = byId(id);
  const options = [...select.options].filter((one) => !one.hidden);
  const at = options.findIndex((one) => one.selected);
  select.value = options[(at + 1) % options.length].value;
  select.dispatchEvent(new Event("change"));
}

function toggleSegment(digit) {
  document.querySelectorAll("#segments input")[digit - 1]?.click();
}

// Where the picture has the focus, every key is ours; the picture's own keys do other things.
for (const id of ["planes-stage", "slices-stage"])
  byId(id).addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Tab" || event.ctrlKey || event.metaKey || event.altKey) return;
      event.stopPropagation();
      if (keys[event.key] && view?.slices) {
        event.preventDefault();
        keys[event.key]();
      } else pressed(event);
    },
    { capture: true },
  );

// Letters work anywhere on the page, but not where one types.
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input:not([type=checkbox],[type=radio],[type=range]),select,dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  pressed(event);
});

function pressed(event) {
  if (!current || byId("result").hidden || !view) return;
  if (letters[event.key.toLowerCase()]) letters[event.key.toLowerCase()]();
  else if (/^[1-9]$/.test(event.key)) toggleSegment(Number(event.key));
}
