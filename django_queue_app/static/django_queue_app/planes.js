// Three planes with a linked crosshair, by NiiVue. Needs WebGL 2; slices.js does without.

import { findRegions, invert, transform } from "./label_map.js";

// NiiVue draws outlines of volumes of this NIfTI intent (label) only.
const INTENT_LABEL = 1002;
// What is inside an outline stays to be seen, faintly, so that an outline is not taken for a ring.
const INSIDE_OUTLINE = 0.08;
// Where the planes are: [left, top, width, height] as fractions of the canvas. They lie apart, so
// that the letters of two neighbours are not read as one word.
const WIDE = {
  axial: [0, 0, 0.58, 1],
  coronal: [0.62, 0, 0.38, 0.48],
  sagittal: [0.62, 0.52, 0.38, 0.48],
};
const TALL = {
  axial: [0, 0, 1, 0.58],
  coronal: [0, 0.62, 0.47, 0.38],
  sagittal: [0.53, 0.62, 0.47, 0.38],
};
const LINE_PX = 1.6;
const WINDOWS = {
  auto: (image) => [image.robust_min, image.robust_max],
  full: (image) => [image.global_min, image.global_max],
  narrow: (image) => around(image, 0.5, 0.5),
  bright: (image) => around(image, 0.35, 0.7),
};

function around(image, centre, width) {
  const span = image.robust_max - image.robust_min;
  const middle = image.robust_min + span * centre;
  return [middle - (span * width) / 2, middle + (span * width) / 2];
}

export function isPossible() {
  const gl = document.createElement("canvas").getContext("webgl2");
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(gl);
}

export class Planes {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {string} vendor address of NiiVue's module
   * @param {{onMove: Function, onWindow: Function}} listeners `onMove` gets {mm, slice, value, label}
   */
  static async start(canvas, vendor, listeners) {
    const { Niivue, SHOW_RENDER, SLICE_TYPE, DRAG_MODE } = await import(vendor);
    const nv = new Niivue({
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      crosshairWidthUnit: "mm",
      crosshairGap: 6,
      crosshairColor: [0.35, 0.75, 1, 0.9],
      fontColor: [1, 0.85, 0.4, 1],
      fontMinPx: 20,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      showAllOrientationMarkers: true,
      dragMode: DRAG_MODE.windowing,
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      loadingText: "",
      logLevel: "silent",
      showLegend: false,
    });
    await nv.attachToCanvas(canvas);
    const lay = () => {
      const places = canvas.clientWidth < canvas.clientHeight * 0.8 ? TALL : WIDE;
      nv.setCustomLayout(
        Object.entries(places).map(([name, position]) => ({
          sliceType: SLICE_TYPE[name.toUpperCase()],
          position,
        })),
      );
    };
    lay();
    const planes = new Planes(nv, listeners);
    new ResizeObserver(() => {
      lay();
      requestAnimationFrame(() => planes.#fitCrosshair()); // after NiiVue's own listener
    }).observe(canvas);
    return planes;
  }

  constructor(nv, { onMove, onWindow }) {
    this.nv = nv;
    this.regions = []; // of one label each
    this.lesions = []; // of all labels together
    this.segments = [];
    this.hidden = new Set();
    this.isMaskShown = true;
    this.isOutline = false;
    this.opacity = 0.45;
    nv.onLocationChange = (place) => onMove(this.#describe(place));
    nv.onIntensityChange = () => onWindow();
  }

  /**
   * Show a series with the mask over it; the crosshair stays where it is in the patient.
   * @param {ArrayBuffer} image gzipped NIfTI
   * @param {ArrayBuffer|null} mask gzipped NIfTI label map
   * @param {{label: string, value: number, color: number[]}[]} segments
   */
  async show(image, mask, segments) {
    const before = this.nv.volumes.length ? this.mm : null;
    this.segments = segments;
    // Copies: NiiVue keeps what it is given, and the series may be shown again.
    const wanted = [{ url: image.slice(0), name: "series.nii.gz", colormap: "gray" }];
    if (mask) wanted.push({ url: mask.slice(0), name: "mask.nii.gz", opacity: this.opacity });
    await this.nv.loadVolumes(wanted);
    const [base, labels] = this.nv.volumes;
    this.labels = labels ? labels.img.slice() : null;
    this.affine = base.hdr.affine;
    this.inverse = invert(this.affine);
    this.shape = base.hdr.dims.slice(1, 4);
    this.regions = labels ? regionsOf(labels, (label) => label) : [];
    this.lesions = labels ? regionsOf(labels, () => 1) : [];
    this.#paint();
    this.#fitCrosshair();
    this.goTo(before || this.lesions[0]?.mm || this.#centre());
  }

  get slices() {
    return this.shape[2];
  }

  get mm() {
    return [...this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true)].slice(0, 3);
  }

  get slice() {
    return this.#voxel()[2];
  }

  /** Move the crosshair to a point in RAS, mm. */
  goTo(mm) {
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm, 0, true);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  /** Move to a slice of the series, from 0, along its own normal. */
  goToSlice(index) {
    const [i, j] = this.#voxel();
    const k = Math.min(Math.max(index, 0), this.slices - 1);
    this.goTo(transform(this.affine, [i, j, k]));
  }

  setWindow(name) {
    const base = this.nv.volumes[0];
    [base.cal_min, base.cal_max] = WINDOWS[name](base);
    this.nv.updateGLVolume();
  }

  setOpacity(fraction) {
    this.opacity = fraction;
    this.#paint();
  }

  setOutline(isOutline) {
    this.isOutline = isOutline;
    this.#paint();
  }

  setMaskShown(isShown) {
    this.isMaskShown = isShown;
    this.#paint();
  }

  setHidden(hidden) {
    this.hidden = hidden;
    this.#paint();
  }

  #paint() {
    const mask = this.nv.volumes[1];
    if (!mask) return;
    // The outline of a segment is drawn whatever its colour's alpha is: hidden ones are taken out.
    const values = new Set(this.segments.map((one) => this.hidden.has(one.number) && one.value));
    mask.img = this.labels.map((label) => (values.has(label) ? 0 : label));
    mask.hdr.intent_code = this.isOutline ? INTENT_LABEL : 0;
    mask.setColormapLabel(colours(this.segments));
    const shown = this.isMaskShown ? this.opacity : 0;
    // A thin line needs more of the colour than an area does.
    this.nv.opts.atlasOutline = this.isOutline ? Math.sqrt(shown) : 0;
    this.nv.setOpacity(1, this.isOutline ? Math.min(shown, INSIDE_OUTLINE) : shown);
    this.nv.updateGLVolume();
  }

  // Its width is in mm, one for all planes; thinner than a pixel it is not drawn at all.
  #fitCrosshair() {
    const scales = this.nv.screenSlices.map(
      ({ fovMM, leftTopWidthHeight }) => Math.abs(fovMM[0]) / leftTopWidthHeight[2],
    );
    const coarsest = Math.max(...scales);
    if (coarsest > 0 && Number.isFinite(coarsest)) this.nv.setCrosshairWidth(coarsest * LINE_PX);
  }

  #centre() {
    return transform(this.affine, this.shape.map((count) => Math.floor(count / 2)));
  }

  #voxel() {
    return transform(this.inverse, this.mm).map((value, axis) =>
      Math.min(Math.max(Math.round(value), 0), this.shape[axis] - 1),
    );
  }

  #labelAt(mm) {
    const mask = this.nv.volumes[1];
    if (!mask || !this.labels) return 0;
    const [ni, nj, nk] = mask.hdr.dims.slice(1, 4);
    const [i, j, k] = transform(invert(mask.hdr.affine), mm).map(Math.round);
    const isInside = i >= 0 && j >= 0 && k >= 0 && i < ni && j < nj && k < nk;
    return isInside ? this.labels[i + ni * (j + nj * k)] : 0;
  }

  #describe(place) {
    const mm = [...place.mm].slice(0, 3);
    const value = place.values[0]?.value;
    return { mm, slice: this.shape ? this.slice : 0, value, label: this.#labelAt(mm) };
  }
}

function regionsOf(mask, kindOf) {
  const shape = mask.hdr.dims.slice(1, 4);
  return findRegions(mask.img, shape, kindOf).map((region) => ({
    ...region,
    mm: transform(mask.hdr.affine, region.voxel),
  }));
}

function colours(segments) {
  const entries = [{ value: 0, color: [0, 0, 0], label: "" }, ...segments];
  return {
    R: entries.map((one) => one.color[0]),
    G: entries.map((one) => one.color[1]),
    B: entries.map((one) => one.color[2]),
    I: entries.map((one) => one.value),
    labels: entries.map((one) => one.label),
  };
}
