// One slice at a time, drawn by the site: for browsers without WebGL 2 and for series that are no
// volume. The mask is the same, by the API's frames.

import { byId, call } from "./api.js";

const AXES = { L: "x", R: "x", A: "y", P: "y", S: "z", I: "z" };
// What doctors expect on the right or at the bottom, and opposite: R and A on the left, A and S on top.
const FAR = { x: "L", y: "P", z: "I" };
const NEAR = { x: "R", y: "A", z: "S" };

/**
 * Tell how to turn a slice so that it lies as doctors expect it, whichever way it was acquired.
 * @param {{right: string, bottom: string}} letters where the source's edges point to
 * @returns {{matrix: number[], isTransposed: boolean, letters: object}|null} null: leave it
 */
function uprightTurn({ right, bottom }) {
  const [along, across] = [AXES[right], AXES[bottom]];
  if (!along || !across || along === across) return null;
  const x = right === FAR[along] ? 1 : -1;
  const y = bottom === FAR[across] ? 1 : -1;
  const isTransposed = along > across;
  const [level, upright] = isTransposed ? [across, along] : [along, across];
  return {
    matrix: isTransposed ? [0, x, y, 0] : [x, 0, 0, y],
    isTransposed,
    letters: { left: NEAR[level], right: FAR[level], top: NEAR[upright], bottom: FAR[upright] },
  };
}

export class Slices {
  /** @param {{onMove: Function}} listeners `onMove` gets {slice} */
  constructor(stage, { onMove }) {
    this.stage = stage;
    this.picture = byId("slice");
    this.canvas = byId("mask");
    this.onMove = onMove;
    this.index = 0;
    this.opacity = 0.45;
    this.isOutline = false;
    this.isMaskShown = true;
    this.hidden = new Set();
    this.frames = new Map(); // by segment number
    this.regions = []; // the widest slice of each segment
    stage.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.goToSlice(this.index + Math.sign(event.deltaY));
      },
      { passive: false },
    );
  }

  /**
   * @param {string} seriesId the series shown
   * @param {{series_id: string, seg_instance_id: string}} result
   * @param {{number: number, color: number[]}[]} segments
   */
  async show(seriesId, result, segments) {
    const answer = await fetch(`/viewer/series/${seriesId}/`, { credentials: "same-origin" });
    const grid = await answer.json();
    if (!answer.ok) throw new Error(grid.error);
    this.seriesId = seriesId;
    this.grid = grid;
    this.slices = grid.slices;
    this.segments = segments;
    this.isMain = seriesId === result.series_id;
    this.#lay();
    if (this.isMain && !this.frames.size) await this.#fetchMask(result);
    const at = this.regions[0]?.slice ?? Math.floor(this.slices / 2);
    this.goToSlice(at);
  }

  get slice() {
    return this.index;
  }

  goToSlice(index) {
    this.index = Math.min(Math.max(index, 0), this.slices - 1);
    this.picture.src = `/viewer/series/${this.seriesId}/slices/${this.index}.png`;
    this.#draw();
    this.onMove({ slice: this.index });
  }

  get lesions() {
    return this.regions;
  }

  setOpacity(fraction) {
    this.opacity = fraction;
    this.#draw();
  }

  setOutline(isOutline) {
    this.isOutline = isOutline;
    this.#draw();
  }

  setMaskShown(isShown) {
    this.isMaskShown = isShown;
    this.#draw();
  }

  setHidden(hidden) {
    this.hidden = hidden;
    this.#draw();
  }

  /** Lay the slices upright and in their true proportions. */
  #lay() {
    const { rows, columns, spacing_mm, letters } = this.grid;
    const turn = uprightTurn(letters) || { matrix: [1, 0, 0, 1], isTransposed: false, letters };
    const [height, width] = [rows * spacing_mm[0], columns * spacing_mm[1]];
    const aspect = turn.isTransposed ? height / width : width / height;
    this.stage.style.setProperty("--aspect", String(aspect));
    const turned = this.stage.querySelector(".turned").style;
    turned.width = turn.isTransposed ? `${100 / aspect}%` : "100%";
    turned.height = turn.isTransposed ? `${100 * aspect}%` : "100%";
    turned.transform = `translate(-50%, -50%) matrix(${turn.matrix.join(", ")}, 0, 0)`;
    for (const side of ["top", "bottom", "left", "right"])
      this.stage.querySelector(`.letter.${side}`).textContent = turn.letters[side];
    this.isRadiological = turn.letters.left === "R";
  }

  async #fetchMask(result) {
    if (!result.seg_instance_id) return;
    const address = `instances/${result.seg_instance_id}/frames/`;
    for (const one of this.segments) {
      const body = await call(`${address}?segment=${one.number}`);
      this.frames.set(one.number, await Promise.all(body.frames.map(decode)));
    }
    this.regions = this.segments
      .map((one) => ({ label: one.value, ...widest(this.frames.get(one.number)) }))
      .filter((region) => region.voxels > 0)
      .sort((a, b) => b.voxels - a.voxels);
  }

  #draw() {
    if (!this.grid) return; // nothing is shown yet
    const { rows, columns } = this.grid;
    [this.canvas.width, this.canvas.height] = [columns, rows];
    this.canvas.hidden = !(this.isMain && this.isMaskShown);
    this.canvas.style.opacity = String(this.opacity);
    if (this.canvas.hidden) return;
    const context = this.canvas.getContext("2d");
    const picture = context.createImageData(columns, rows);
    for (const one of this.segments) {
      if (this.hidden.has(one.number)) continue;
      paint(picture, this.frames.get(one.number)?.[this.index], one.color, this.isOutline);
    }
    context.putImageData(picture, 0, 0);
  }
}

/** Decode a frame: one byte per pixel, 1 inside; null where it is empty. */
async function decode({ mask_base64: data }) {
  const image = new Image();
  image.src = `data:image/png;base64,${data}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const inside = new Uint8Array(image.width * image.height);
  let count = 0;
  for (let at = 0; at < inside.length; at++) {
    inside[at] = pixels[at * 4] > 0 ? 1 : 0;
    count += inside[at];
  }
  return count ? { inside, count, width: image.width } : null;
}

function widest(frames) {
  let best = { slice: 0, voxels: 0 };
  frames.forEach((frame, slice) => {
    if (frame && frame.count > best.voxels) best = { slice, voxels: frame.count };
  });
  return best;
}

function paint(picture, frame, color, isOutline) {
  if (!frame) return;
  const { inside, width } = frame;
  for (let at = 0; at < inside.length; at++) {
    if (!inside[at]) continue;
    if (isOutline && !isEdge(inside, at, width)) continue;
    picture.data.set([...color, 255], at * 4);
  }
}

function isEdge(inside, at, width) {
  return !(inside[at - 1] && inside[at + 1] && inside[at - width] && inside[at + width]);
}
