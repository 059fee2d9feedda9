// Calls to the site, and words in the page's language.

export const api = "/api/mri/segmentation/";
export const words = JSON.parse(document.getElementById("words").textContent);
export const language = document.documentElement.lang || "en";
export const byId = (id) => document.getElementById(id);

// A live region speaks whenever its text is set, so it is set only where it changes.
export function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

// The site refused: its sentence is for the person at the screen, and asking again won't help.
export class Refused extends Error {
  constructor(sentence, code) {
    super(sentence);
    this.code = code;
  }
}

/** Put values into a sentence: fill("{place} of {count}", {place: 1, count: 2}). */
export function fill(sentence, values) {
  return sentence.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

export function formatNumber(value, digits = 0) {
  return new Intl.NumberFormat(language, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(value);
}

export function formatDuration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return fill(words.seconds, { count: formatNumber(whole) });
  return fill(words.minutes, {
    minutes: formatNumber(Math.floor(whole / 60)),
    seconds: formatNumber(whole % 60),
  });
}

// The site does not answer, or asks for patience: the same call may succeed a little later.
export class Unreachable extends Error {}

// A site that hangs is told from one that is slow after this long.
const longestCall = 30_000;

/** Call the site's API. Throws Refused with its sentence, Unreachable where it does not answer. */
export async function call(path, options = {}) {
  const isReading = !options.method;
  const away = isReading ? words.unreachable : words.not_sent;
  const answer = await fetch(api + path, {
    credentials: "same-origin",
    signal: AbortSignal.timeout(longestCall),
    ...options,
    headers: { "Accept-Language": language, ...(options.headers || {}) },
  }).catch(() => {
    throw new Unreachable(away);
  });
  if (answer.status === 401) throw new Refused(words.signed_out_hint, "signed_out");
  const body = await answer.json().catch(() => null);
  if (body === null || answer.status >= 500 || answer.status === 429)
    throw new Unreachable((!isReading && body?.error) || away);
  if (body.success !== true) throw new Refused(body.error || words.unreachable, body.code);
  return body;
}

/** Read a whole file of the site. Throws Refused where there is none. */
export async function readFile(address, onFraction = () => {}) {
  const answer = await fetch(address, { credentials: "same-origin" });
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Refused(body.error || words.unreachable, body.code);
  }
  const total = Number(answer.headers.get("Content-Length")) || 0;
  const parts = [];
  let read = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    read += value.length;
    if (total) onFraction(Math.min(read / total, 1));
  }
  return new Blob(parts).arrayBuffer();
}

/** Make an element with text; text is never read as HTML, whatever a DICOM header says. */
export function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
