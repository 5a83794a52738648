// Keeps the page up to date: fetches it again when something happened, and swaps the sections that changed.
// A page says how it wants to be told: data-stream (an address of server-sent events), or data-poll (seconds).
"use strict";

const PAUSE = 1000; // ms between two fetches of the page
const LONGEST_WAIT = 30000; // ms before the next try when the server does not answer
const SAID_AT_ONCE = 3;

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

async function refresh(signal) {
  const response = await fetch(location.href, { cache: "no-cache", signal });
  if (response.redirected) {
    say(connection, "You are signed out. Load the page again to sign in.");
    return false;
  }
  if (!response.ok) throw new Error(response.statusText);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const fresh of sections(page)) {
    const html = fresh.outerHTML;
    const old = document.getElementById(fresh.id);
    if (old && shown.get(fresh.id) !== html) {
      announce(page);
      swap(old, fresh);
      shown.set(fresh.id, html);
    }
  }
  document.title = page.title;
  return true;
}

async function poll(signal) {
  const said = Number(main.dataset.poll) * 1000;
  do {
    await pause(said);
  } while (!signal.aborted && (await refresh(signal)));
  return true;
}

// EventSource cannot start after an event that is known already, so the stream is read here. True once it is over.
async function follow(signal) {
  const headers = { "Last-Event-ID": String(number) };
  const response = await fetch(main.dataset.stream, { headers, cache: "no-store", signal });
  if (response.status === 204) return true;
  if (!response.ok) throw new Error(response.statusText);
  say(connection, "Live: this page updates itself.");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let happened = false;
  let refreshing = null;
  let isSignedOut = false;
  const update = async () => {
    while (happened && !signal.aborted && !isSignedOut) {
      happened = false;
      isSignedOut = !(await refresh(signal));
      await pause(PAUSE);
    }
    refreshing = null;
  };
  for (;;) {
    const { value, done } = await reader.read();
    if (done || isSignedOut) break;
    if (!/^id:/m.test(value)) continue;
    happened = true;
    refreshing ??= update();
  }
  await refreshing;
  return isSignedOut;
}

async function keepUp(signal) {
  const once = main.dataset.stream ? follow : poll;
  for (let wait = PAUSE; !signal.aborted; ) {
    try {
      if (await once(signal)) break;
      wait = PAUSE;
    } catch (error) {
      if (signal.aborted) return;
      say(connection, "The server does not answer. Trying again.");
      wait = Math.min(2 * wait, LONGEST_WAIT);
    }
    await pause(wait);
  }
  if (main.dataset.stream && !signal.aborted && !connection.textContent.startsWith("You")) {
    say(connection, "The round has ended.");
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

if (main.dataset.stream || main.dataset.poll) {
  document.addEventListener("visibilitychange", watch);
  watch();
}
for (const box of document.querySelectorAll(".log")) box.scrollTop = box.scrollHeight;
