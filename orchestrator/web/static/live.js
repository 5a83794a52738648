// Keeps the page up to date: fetches it again when something happened, and swaps the sections that changed.
// A page says how it wants to be told: data-stream (an address of server-sent events), or data-poll (seconds);
// data-ended is what to say of a page to which little more will happen.
"use strict";

const PAUSE = 1000; // ms between two fetches of the page
const LONGEST_WAIT = 30000; // ms before the next try when the server does not answer
const SAID_AT_ONCE = 3;
const LIVE = "Live: this page updates itself.";
const SILENCE = "The server does not answer. Trying again.";
const REFUSALS = {
  401: "You are signed out.",
  403: "You may no longer see this page.",
  404: "This page is no longer there.",
};

const main = document.getElementById("content");
const announcer = document.getElementById("announcer");
const connection = document.getElementById("connection");

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const sections = (page) => [...page.querySelectorAll("[data-live]")];
const shown = new Map(sections(document).map((section) => [section.id, section.outerHTML]));
let number = Number(main.dataset.number || 0); // of the last event that the page shows

// Nothing that trying again would mend.
class Refused extends Error {}

function check(response) {
  const status = response.redirected ? 401 : response.status; // pages lead whoever is signed out to the form
  if (status in REFUSALS) throw new Refused(status);
  if (!response.ok) throw new Error(response.statusText);
}

function refuse(status) {
  say(connection, REFUSALS[status]);
  if (status !== "401") return;
  const link = document.createElement("a");
  link.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in";
  connection.append(" ", link);
}

function say(where, text) {
  where.hidden = false;
  if (where.textContent !== text) where.textContent = text;
}

// What a user has done to a section: opened, scrolled, focused.
function remember(section) {
  const scrolled = [...section.querySelectorAll(".scroll")].map((box) => ({
    left: box.scrollLeft,
    top: box.scrollTop,
    atEnd: box.scrollTop + box.clientHeight >= box.scrollHeight - 2,
  }));
  const focused = section.contains(document.activeElement) ? document.activeElement : null;
  const alike = (where) => (focused ? [...where.querySelectorAll(focused.tagName)] : []);
  const place = alike(section).indexOf(focused);
  return () => {
    [...section.querySelectorAll(".scroll")].forEach((box, i) => {
      if (!scrolled[i]) return;
      box.scrollLeft = scrolled[i].left;
      box.scrollTop = scrolled[i].atEnd ? box.scrollHeight : scrolled[i].top;
    });
    if (!focused || section.contains(document.activeElement)) return;
    const same = alike(section).find((one) => one.outerHTML === focused.outerHTML);
    (same || alike(section)[place] || main).focus({ preventScroll: true });
  };
}

function swap(old, fresh) {
  const restore = remember(old);
  const { scrollX, scrollY } = window;
  for (const { name, value } of fresh.attributes) old.setAttribute(name, value);
  old.hidden = fresh.hidden;
  old.replaceChildren(...fresh.childNodes);
  restore();
  window.scrollTo(scrollX, scrollY);
}

// The words come from the page itself: events that it lists and did not list before.
function announce(page) {
  const fresh = [...page.querySelectorAll("[data-event]")].filter((item) => Number(item.dataset.event) > number);
  number = Math.max(number, ...fresh.map((item) => Number(item.dataset.event)));
  const said = fresh.filter((item) => "say" in item.dataset).map((item) => item.lastElementChild.textContent.trim());
  if (!said.length) return;
  const more = said.length > SAID_AT_ONCE ? ` And ${said.length - SAID_AT_ONCE} more.` : "";
  say(announcer, `${said.slice(0, SAID_AT_ONCE).join(". ")}.${more}`);
}

async function refresh(signal) {
  const response = await fetch(location.href, { cache: "no-cache", signal });
  check(response);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  announce(page);
  for (const fresh of sections(page)) {
    const html = fresh.outerHTML;
    const old = document.getElementById(fresh.id);
    if (old && shown.get(fresh.id) !== html) {
      swap(old, fresh);
      shown.set(fresh.id, html);
    }
  }
  document.title = page.title;
  const { dataset } = page.getElementById("content");
  for (const how of ["stream", "poll", "ended", "waiting"]) {
    if (how in dataset) main.dataset[how] = dataset[how];
    else delete main.dataset[how];
  }
  say(connection, main.dataset.ended || LIVE);
}

// Charts that were not drawn in time follow.
async function complete(signal) {
  while ("waiting" in main.dataset && !signal.aborted) {
    await pause(PAUSE);
    await refresh(signal);
  }
}

// EventSource cannot start after an event that is known already, so the stream is read here, until it ends. What keeps
// the connection open counts as an event: how long ago something was seen changes without one.
async function follow(signal) {
  const headers = { "Last-Event-ID": String(number) };
  const response = await fetch(main.dataset.stream, { headers, cache: "no-store", signal });
  check(response);
  say(connection, LIVE);
  if (!response.body) return; // 204: the round has ended
  const reader = response.body.getReader();
  const state = { happened: false, isUpdating: false, failure: null };
  let updating = null;
  while (!(await reader.read()).done) {
    state.happened = true;
    if (!state.isUpdating) {
      updating = update(state, signal).then(() => {
        if (state.failure) reader.cancel().catch(() => {}); // the stream may be broken already
      });
    }
  }
  await updating;
  if (state.failure) throw state.failure;
}

// Fetches the page as often as something has happened since.
async function update(state, signal) {
  state.isUpdating = true;
  try {
    while (state.happened) {
      state.happened = false;
      await refresh(signal);
      await pause(PAUSE);
      await complete(signal);
    }
  } catch (error) {
    state.failure = error;
  }
  state.isUpdating = false;
}

async function keepUp(signal) {
  let wait = PAUSE;
  while (!signal.aborted) {
    try {
      await complete(signal);
      if (main.dataset.stream) await follow(signal);
      await refresh(signal);
      wait = main.dataset.stream ? PAUSE : Number(main.dataset.poll) * 1000;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused) return refuse(error.message);
      say(connection, SILENCE);
      wait = Math.min(2 * wait, LONGEST_WAIT);
    }
    await pause(wait);
  }
}

let running = null;

function watch() {
  running?.abort();
  running = null;
  if (document.hidden) return;
  running = new AbortController();
  keepUp(running.signal);
}

if ("stream" in main.dataset || "poll" in main.dataset) {
  document.addEventListener("visibilitychange", watch);
  watch();
}
for (const box of document.querySelectorAll(".log")) box.scrollTop = box.scrollHeight;
