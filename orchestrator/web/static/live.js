// Keeps the page up to date: fetches it again when something happened, and swaps the sections that changed.
// A page says how it wants to be told: data-stream (an address of server-sent events), or data-poll (seconds).
"use strict";

const PAUSE = 1000; // ms between two fetches of the page
const LONGEST_WAIT = 30000; // ms before the next try when the server does not answer
const SAID_AT_ONCE = 3;
const SIGNED_OUT = "You are signed out. Load the page again to sign in.";
const IS_COMMENT = /^:[^\n]*\s*$/; // what the server sends to keep the connection open

const main = document.getElementById("content");
const announcer = document.getElementById("announcer");
const connection = document.getElementById("connection");

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const sections = (page) => [...page.querySelectorAll("[data-live]")];
const shown = new Map(sections(document).map((section) => [section.id, section.outerHTML]));
let number = Number(main.dataset.number || 0); // of the last event that the page shows

function say(where, text) {
  where.hidden = false;
  if (where.textContent !== text) where.textContent = text;
}

// What a user has done to a section: opened, scrolled, focused.
function remember(section) {
  const scrolled = [...section.querySelectorAll(".scroll")].map((box) => [
    box.scrollLeft,
    box.scrollTop + box.clientHeight >= box.scrollHeight - 2 ? Infinity : box.scrollTop,
  ]);
  const focused = section.contains(document.activeElement) ? document.activeElement : null;
  const alike = (where) => (focused ? [...where.querySelectorAll(focused.tagName)] : []);
  const place = alike(section).indexOf(focused);
  return () => {
    [...section.querySelectorAll(".scroll")].forEach((box, i) => {
      if (scrolled[i]) [box.scrollLeft, box.scrollTop] = scrolled[i];
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

// False once the user is signed out.
async function refresh(signal) {
  const response = await fetch(location.href, { cache: "no-cache", signal });
  if (response.redirected) {
    say(connection, SIGNED_OUT);
    return false;
  }
  if (!response.ok) throw new Error(response.statusText);
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
  const { poll, waiting } = page.getElementById("content").dataset;
  if (poll === undefined) delete main.dataset.poll;
  if (waiting === undefined) delete main.dataset.waiting;
  else main.dataset.waiting = "";
  return true;
}

// Charts that were not drawn in time follow.
async function complete(signal) {
  while ("waiting" in main.dataset && !signal.aborted) {
    await pause(PAUSE);
    if (!(await refresh(signal))) return;
  }
}

async function poll(signal) {
  while ("poll" in main.dataset && !signal.aborted && (await refresh(signal))) {
    await pause(Number(main.dataset.poll) * 1000);
  }
}

// EventSource cannot start after an event that is known already, so the stream is read here. True once it is over.
async function follow(signal) {
  const headers = { "Last-Event-ID": String(number) };
  const response = await fetch(main.dataset.stream, { headers, cache: "no-store", signal });
  if (response.status === 204) return true;
  if (!response.ok) throw new Error(response.statusText);
  say(connection, "Live: this page updates itself.");
  const reader = response.body.getReader();
  const text = new TextDecoder();
  const state = { happened: false, isUpdating: false, isOver: false, failure: null };
  let updating = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    if (IS_COMMENT.test(text.decode(value))) continue;
    state.happened = true;
    if (!state.isUpdating) {
      updating = update(state, signal).then(() => {
        if (state.failure || state.isOver) reader.cancel().catch(() => {}); // the stream may be broken already
      });
    }
  }
  await updating;
  if (state.failure) throw state.failure;
  return state.isOver;
}

// Fetches the page as often as something has happened since.
async function update(state, signal) {
  state.isUpdating = true;
  try {
    while (state.happened && !state.isOver) {
      state.happened = false;
      state.isOver = !(await refresh(signal));
      await pause(PAUSE);
      await complete(signal);
    }
  } catch (error) {
    state.failure = error;
  }
  state.isUpdating = false;
}

async function keepUp(signal) {
  for (let wait = PAUSE; !signal.aborted; ) {
    try {
      await complete(signal);
      if (!main.dataset.stream) return await poll(signal);
      if (await follow(signal)) break;
      wait = PAUSE;
    } catch {
      if (signal.aborted) return;
      say(connection, "The server does not answer. Trying again.");
      wait = Math.min(2 * wait, LONGEST_WAIT);
    }
    await pause(wait);
  }
  if (!signal.aborted && connection.textContent !== SIGNED_OUT) say(connection, "The round has ended.");
}

let running = null;

function watch() {
  running?.abort();
  running = null;
  if (document.hidden) return;
  running = new AbortController();
  keepUp(running.signal);
}

if (["stream", "poll", "waiting"].some((how) => how in main.dataset)) {
  document.addEventListener("visibilitychange", watch);
  watch();
}
for (const box of document.querySelectorAll(".log")) box.scrollTop = box.scrollHeight;
