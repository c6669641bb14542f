// The frame of the page: tabs by the hash of the address, language, theme, and what sections share.

import { ICONS, el, icon } from "./dom.js";

const LANGUAGES = ["en", "zh"];
const words = { en: {}, zh: {} };
const state = { language: "en", facts: null, shown: null, unmount: null };

/** The text of a key in the language of the page; `{name}` is replaced by `values.name`. */
function t(key, values = {}) {
  const text = words[state.language][key] ?? words.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Format a number for the language of the page. */
function number(value, digits = 0) {
  return value.toLocaleString(state.language === "zh" ? "zh-CN" : "en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** What an alias of a registered version is called; other people's aliases have no translation. */
function alias(name) {
  const key = `alias.${name}`;
  return key in words.en ? t(key) : name;
}

/** An error whose message is a sentence for the user. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Ask the server. `options`: those of fetch, and `json`, which becomes the body. Returns the response.
 *  Raises Refused with the sentence of the server. */
async function request(path, options = {}) {
  const { json, ...rest } = options;
  if (json !== undefined) {
    rest.body = JSON.stringify(json);
    rest.headers = { "content-type": "application/json", ...rest.headers };
    rest.method ??= "POST";
  }
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...rest });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(t("shell.offline"), 0);
  }
  document.querySelectorAll(".toast.offline").forEach((each) => each.remove()); // the server answers again
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    throw new Refused(content.error || `${response.status} ${response.statusText}`, response.status);
  }
  return response;
}

/** Ask the server for JSON. Unless `options.quiet`, a refusal is also shown; it is raised in any case. */
async function api(path, options = {}) {
  const { quiet, ...rest } = options;
  try {
    const response = await request(path, rest);
    return response.status === 204 ? null : await response.json();
  } catch (error) {
    if (!quiet && error instanceof Refused) toast(error.message, "bad");
    throw error;
  }
}

/** Say a text to screen readers. */
function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  setTimeout(() => (announcer.textContent = text), 50);
}

/** Show a short message for a while. `kind`: "good", "bad" or "". `action`: `{text, run}`, such as undo. */
function toast(text, kind = "", action = null) {
  const close = () => message.remove();
  const message = el(
    "div",
    { class: `toast ${kind}`, role: kind === "bad" ? "alert" : "status" },
    el("span", { text }),
    action && el("button", { type: "button", class: "quiet", text: action.text, onclick: () => (close(), action.run()) }),
    el("button", { type: "button", class: "quiet icon-button", "aria-label": t("shell.close"), onclick: close }, icon(ICONS.close)),
  );
  message.classList.toggle("offline", text === t("shell.offline"));
  document.getElementById("toasts").append(message);
  if (kind !== "bad") setTimeout(close, action ? 10000 : 5000);
}

/** Open a dialog with a title, a body of elements and buttons `{text, value, kind}`; resolves to the chosen value. */
function dialog(title, body, buttons) {
  return new Promise((resolve) => {
    const heading = el("h2", { text: title, id: "dialog-title" });
    const finish = (value) => {
      box.close();
      box.remove();
      resolve(value);
    };
    const row = buttons.map((each) =>
      el("button", { type: "button", class: each.kind || "", text: each.text, onclick: () => finish(each.value) }),
    );
    const box = el(
      "dialog",
      { "aria-labelledby": "dialog-title", oncancel: (event) => (event.preventDefault(), finish(null)) },
      heading,
      body,
      el("div", { class: "toolbar end" }, row),
    );
    document.body.append(box);
    box.showModal();
  });
}

async function loadWords(name) {
  const module = await import(`./words/${name}.js`);
  for (const language of LANGUAGES) Object.assign(words[language], module.default[language]);
}

function setLanguage(language) {
  state.language = language;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  localStorage.setItem("imagecap.language", language);
}

function effectiveTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function drawFrame() {
  document.getElementById("skip").textContent = t("shell.skip");
  const tabs = document.getElementById("tabs");
  tabs.setAttribute("aria-label", t("shell.sections"));
  tabs.replaceChildren(
    ...state.facts.sections.map((name) =>
      el("a", { href: `#${name}`, text: t(`tab.${name}`), "aria-current": name === state.shown ? "page" : null }),
    ),
  );
  const language = document.getElementById("language");
  language.textContent = t("shell.language");
  language.setAttribute("aria-label", t("shell.language.label"));
  language.lang = state.language === "zh" ? "en" : "zh-CN";
  drawTheme();
  const { version, server } = state.facts;
  const foot = document.getElementById("foot");
  foot.replaceChildren(
    el("span", { text: t("shell.version", { version }) }),
    el("span", { text: server ? t("shell.remote", { server }) : t("shell.local") }),
  );
}

function drawTheme() {
  const dark = effectiveTheme() === "dark";
  const button = document.getElementById("theme");
  button.replaceChildren(icon(dark ? ICONS.sun : ICONS.moon));
  button.setAttribute("aria-label", t(dark ? "shell.theme.light" : "shell.theme.dark"));
  button.title = button.getAttribute("aria-label");
}

const tools = {
  t,
  number,
  api,
  request,
  announce,
  alias,
  toast,
  dialog,
  Refused,
  /** The language of the page, "en" or "zh". */
  get language() {
    return state.language;
  },
  /** What `/api/page` says: version, sections, models and server. */
  get facts() {
    return state.facts;
  },
  /** What follows the section in the address, such as "7" of "#versions/7". */
  get route() {
    return location.hash.slice(1).split("/").slice(1).map(decodeURIComponent);
  },
};

/** Show the section that the address names. A section's `mount` may return a function that ends it. */
async function show() {
  const names = state.facts.sections;
  const wanted = location.hash.slice(1).split("/")[0];
  const name = names.includes(wanted) ? wanted : names[0];
  state.unmount?.();
  state.unmount = null;
  const moved = state.shown !== null && state.shown !== name;
  state.shown = name;
  drawFrame();
  document.title = `${t(`tab.${name}`)} · ImageCap`;
  const content = document.getElementById("content");
  const section = el("div", { class: `section section-${name}` });
  content.replaceChildren(section);
  try {
    const [module] = await Promise.all([import(`./${name}.js`), loadWords(name)]);
    if (state.shown !== name || !section.isConnected) return;
    state.unmount = (await module.mount(section, tools)) || null;
  } catch (error) {
    section.replaceChildren(el("p", { class: "problem", role: "alert", text: t("shell.broken", { reason: error.message }) }));
    if (!(error instanceof Refused)) throw error;
  }
  if (moved) content.focus();
}

async function start() {
  const theme = localStorage.getItem("imagecap.theme");
  if (theme) document.documentElement.dataset.theme = theme;
  const saved = localStorage.getItem("imagecap.language");
  setLanguage(LANGUAGES.includes(saved) ? saved : navigator.language.startsWith("zh") ? "zh" : "en");
  await loadWords("shell");
  try {
    state.facts = await api("/api/page", { quiet: true });
  } catch (error) {
    document.getElementById("content").replaceChildren(el("p", { class: "problem", role: "alert", text: error.message }));
    return;
  }
  for (const name of state.facts.sections) {
    if (state.facts.styles.includes(name)) document.head.append(el("link", { rel: "stylesheet", href: `/static/${name}.css` }));
  }
  document.getElementById("language").addEventListener("click", () => {
    setLanguage(state.language === "en" ? "zh" : "en");
    show();
  });
  document.getElementById("theme").addEventListener("click", () => {
    const next = effectiveTheme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("imagecap.theme", next);
    drawTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTheme);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the hash is the section
    document.getElementById("content").focus();
  });
  addEventListener("hashchange", show);
  await show();
}

start();
