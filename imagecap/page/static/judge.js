// Judge: the list of comparisons, and which view the address names.

import { el } from "./dom.js";
import { mountPairs } from "./judge_pairs.js";
import { mountResult } from "./judge_result.js";

const JUDGE = "imagecap.judge";

/** What a version or a run is called. */
export function sideLabel(side, tools) {
  const version = /^models:\/.+\/(\d+)$/.exec(side);
  return version ? tools.t("judge.version", { number: version[1] }) : tools.t("judge.run.short", { id: side.slice(0, 8) });
}

export function date(time, tools) {
  return new Date(time).toLocaleString(tools.language === "zh" ? "zh-CN" : "en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** Remember the fingerprint that this browser has been shown for a session. The first one stays. */
export function noteFingerprint(name, fingerprint) {
  const key = `imagecap.judge.fingerprint.${name}`;
  if (localStorage.getItem(key) === null) localStorage.setItem(key, fingerprint);
}

export function notedFingerprint(name) {
  return localStorage.getItem(`imagecap.judge.fingerprint.${name}`);
}

export async function mount(element, tools) {
  const [name, view] = tools.route;
  if (name && view === "result") return mountResult(element, tools, name);
  const judge = localStorage.getItem(JUDGE);
  if (name && judge) return mountPairs(element, tools, name, judge);
  if (name) return askName(element, tools);
  return mountList(element, tools);
}

function nameField(tools) {
  const input = el("input", { id: "judge-name", autocomplete: "name", maxlength: 60, required: true, value: localStorage.getItem(JUDGE) || "" });
  const field = el(
    "div",
    { class: "field" },
    el("label", { for: "judge-name", text: tools.t("judge.name") }),
    input,
    el("p", { class: "hint", text: tools.t("judge.name.hint") }),
  );
  return { input, field };
}

function askName(element, tools) {
  const { input, field } = nameField(tools);
  const start = (event) => {
    event.preventDefault();
    if (!input.value.trim()) return;
    localStorage.setItem(JUDGE, input.value.trim());
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  element.append(
    el("h1", { text: tools.t("judge.who") }),
    el("form", { class: "card fields judge-narrow", onsubmit: start }, field, el("button", { class: "main", text: tools.t("judge.start") })),
  );
  input.focus();
}

async function mountList(element, tools) {
  const { t } = tools;
  element.append(el("h1", { text: t("judge.title") }), el("p", { class: "lead", text: t("judge.lead") }));
  const [sides, sessions] = await Promise.all([tools.api("/api/judge/sides"), tools.api("/api/judge/sessions")]);
  const columns = el("div", { class: "judge-columns" });
  columns.append(newComparison(sides, tools));
  if (sessions.length) columns.append(sessionList(sessions, tools));
  element.append(columns);
}

function newComparison(sides, tools) {
  const { t } = tools;
  const total = sides.versions.length + sides.runs.length;
  if (total < 2) {
    return el("div", { class: "card" }, el("h2", { text: t("judge.new") }), el("p", { text: t("judge.few", { count: total }) }));
  }
  const all = [...sides.versions, ...sides.runs].map((each) => each.side);
  const champion = sides.versions.find((each) => each.aliases.includes("champion"));
  const first = sideSelect("judge-first", sides, champion ? champion.side : all[1], tools);
  const second = sideSelect("judge-second", sides, all.find((side) => side !== first.value), tools);
  const count = el("input", { id: "judge-count", type: "number", min: 1, max: 1000, value: "30", required: true, inputmode: "numeric" });
  const name = nameField(tools);
  const begin = el("button", { class: "main", text: t("judge.begin") });
  const waiting = el("p", { class: "soft small", role: "status" });
  const submit = async (event) => {
    event.preventDefault();
    if (!name.input.value.trim()) return name.input.focus();
    localStorage.setItem(JUDGE, name.input.value.trim());
    begin.disabled = true;
    waiting.textContent = t("judge.beginning");
    try {
      const wanted = { baseline: first.value, candidate: second.value, count: Number(count.value) };
      const made = await tools.api("/api/judge/sessions", { json: wanted });
      noteFingerprint(made.name, made.fingerprint);
      location.hash = `#judge/${made.name}`;
    } catch (error) {
      if (!(error instanceof tools.Refused)) throw error;
    } finally {
      begin.disabled = false;
      waiting.textContent = "";
    }
  };
  const field = (id, label, input) => el("div", { class: "field" }, el("label", { for: id, text: t(label) }), input);
  return el(
    "form",
    { class: "card fields", onsubmit: submit, novalidate: true },
    el("h2", { text: t("judge.new") }),
    el("div", { class: "judge-two" }, field("judge-first", "judge.first", first), field("judge-second", "judge.second", second)),
    el("div", { class: "judge-two" }, field("judge-count", "judge.count", count), name.field),
    el("div", { class: "toolbar" }, begin, waiting),
  );
}

function sideSelect(id, sides, chosen, tools) {
  const { t } = tools;
  const option = (side, text) => el("option", { value: side, text });
  const groups = [];
  if (sides.versions.length) {
    const options = sides.versions.map((each) => {
      const text = t("judge.version", { number: each.number });
      return option(each.side, each.aliases.length ? `${text} (${each.aliases.map(tools.alias).join(", ")})` : text);
    });
    groups.push(el("optgroup", { label: t("judge.versions") }, options));
  }
  if (sides.runs.length) {
    const options = sides.runs.map((each) => option(each.side, t("judge.run", { title: each.title, date: date(each.created, tools) })));
    groups.push(el("optgroup", { label: t("judge.runs") }, options));
  }
  const select = el("select", { id }, groups);
  select.value = chosen;
  return select;
}

function sessionList(sessions, tools) {
  const { t } = tools;
  return el(
    "section",
    {},
    el("h2", { text: t("judge.sessions") }),
    el("ul", { class: "judge-sessions" }, sessions.map((session) => sessionRow(session, tools))),
  );
}

function sessionRow(session, tools) {
  const { t } = tools;
  const [first, second] = session.sides.map((side) => sideLabel(side, tools));
  const judges = Object.entries(session.judges).map(([name, done]) => t("judge.progress", { name, done, count: session.count }));
  return el(
    "li",
    { class: "card" },
    el(
      "div",
      {},
      el("h3", { text: t("judge.session", { first, second }) }),
      el("p", { class: "soft small", text: t("judge.session.pictures", { count: session.count, date: date(session.created, tools) }) }),
      el("p", { class: "small", text: judges.length ? judges.join(" · ") : t("judge.nobody") }),
    ),
    el(
      "div",
      { class: "toolbar" },
      el("a", { class: "button", href: `#judge/${session.name}`, text: t("judge.continue") }),
      el("a", { class: "button", href: `#judge/${session.name}/result`, text: t("judge.result"), hidden: !judges.length }),
    ),
  );
}
