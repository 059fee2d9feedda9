// The queue page keeps itself up to date: the parts marked data-live are fetched anew.

const words = JSON.parse(document.getElementById("words").textContent);
const freshness = document.getElementById("freshness");
const news = document.getElementById("news");
const pause = 5000;
let at = live("live-now").dataset.at;
let timer = 0;

function live(id) {
  return document.getElementById(id);
}

function say(sentence) {
  freshness.textContent = sentence.replace("{time}", at);
}

// A button that moves away under a finger, or a list that jumps while it is read aloud, is worse
// than one that is a few seconds old.
function isInUse() {
  const chosen = getSelection();
  const marked = chosen && !chosen.isCollapsed ? chosen.anchorNode?.parentElement : null;
  return [document.activeElement, marked].some((one) => one?.closest("[data-live], .filters"));
}

async function renew() {
  if (isInUse()) return say(words.held);
  const address = new URL(location.href);
  address.searchParams.set("fragment", "1");
  let answer;
  try {
    answer = await fetch(address, { credentials: "same-origin", cache: "no-store" });
  } catch {
    return say(words.unreachable);
  }
  if (answer.redirected) {
    stop();
    return say(words.signed_out);
  }
  if (!answer.ok) return say(words.unreachable);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (isInUse()) return say(words.held);
  show(fresh);
  say(words.updated);
}

function show(fresh) {
  const before = problems(document);
  for (const part of fresh.querySelectorAll("[data-live]")) live(part.id)?.replaceWith(part);
  at = live("live-now").dataset.at;
  const now = problems(document);
  if (now !== before) news.textContent = now || words.no_problem;
}

function problems(where) {
  return [...where.querySelectorAll(".problems li")].map((item) => item.textContent).join(" ");
}

function start() {
  stop();
  const next = async () => {
    await renew().catch(() => say(words.unreachable));
    if (timer) timer = setTimeout(next, pause);
  };
  timer = setTimeout(next, document.hidden ? pause : 0);
}

function stop() {
  clearTimeout(timer);
  timer = 0;
}

document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
say(words.updated);
timer = setTimeout(start, pause);
