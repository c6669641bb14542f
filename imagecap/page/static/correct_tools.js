// What is done with many captions at once: find and replace, putting the right ones first, writing, and the changes.

import { button, el } from "./dom.js";
import { CommandsView } from "./correct_commands.js";

const ALIKE_EVERY = 1000; // milliseconds between two questions about near duplicates

/** The cards below the list. `actions`: `refresh()`, `goTo(row)`, `undo(number)` of the section. */
export function toolCards(queue, tools, actions) {
  const replace = replaceCard(queue, tools, actions);
  const commands = new CommandsView(tools, actions);
  const helpers = helperCard(tools, actions, commands);
  const finish = finishCard(tools, actions, commands);
  const changes = historyCard(tools, actions);
  const element = el("div", { class: "correct-tools" }, replace, helpers.element, finish.element, commands.element, changes.element);
  commands.watch();
  return {
    element,
    draw(summary) {
      helpers.draw(summary);
      finish.draw(summary);
      changes.changed();
    },
    end() {
      commands.end();
      helpers.end();
    },
  };
}

function field(id, label, box) {
  return el("div", { class: "field" }, el("label", { for: id, text: label }), box);
}

function replaceCard(queue, tools, actions) {
  const { t } = tools;
  const find = el("input", { id: "correct-find", dir: "auto", autocomplete: "off", required: true });
  const by = el("input", { id: "correct-by", dir: "auto", autocomplete: "off" });
  const matchCase = el("input", { type: "checkbox" });
  const words = el("input", { type: "checkbox" });
  const result = el("div", { "aria-live": "polite" });
  const wanted = () => ({ find: find.value, replace: by.value, match_case: matchCase.checked, whole_words: words.checked });
  const stale = () => result.replaceChildren();
  for (const each of [find, by, matchCase, words]) each.addEventListener("input", stale);

  async function preview(event) {
    event.preventDefault();
    const replacement = wanted();
    const found = await queue.preview(replacement);
    if (!found.count) {
      result.replaceChildren(el("p", { class: "soft", text: t("correct.replace.none") }));
      return;
    }
    const rows = found.shown.map(({ item, after }) => el("tr", {},
      el("td", {}, el("bdi", { class: "small soft", text: item.image })),
      el("td", { dir: "auto", text: item.caption }),
      el("td", { dir: "auto", text: after })));
    const shown = found.count > rows.length ? ` (${t("correct.replace.shown", { shown: rows.length })})` : "";
    result.replaceChildren(
      el("p", { text: t("correct.replace.count", { count: tools.number(found.count) }) + shown }),
      el("div", { class: "scroll correct-preview", tabindex: 0, role: "region", "aria-label": t("correct.replace.preview") },
        el("table", {},
          el("thead", {}, el("tr", {}, ["picture", "before", "after"].map((name) => el("th", { scope: "col", text: name === "picture" ? t("correct.picture", { name: "" }).trim() : t(`correct.replace.${name}`) })))),
          el("tbody", {}, rows))),
      el("div", { class: "toolbar end" },
        button(t("correct.replace.apply", { count: tools.number(found.count) }), { class: "main", onclick: () => apply(replacement, found.version) })));
  }

  async function apply(replacement, version) {
    const done = await queue.replace(replacement, version);
    stale();
    const left = done.left ? ` ${t("correct.replace.left", { count: done.left })}` : "";
    tools.toast(`${t("correct.replace.done", { count: tools.number(done.changed) })}.${left}`, "good", { text: t("correct.undo"), run: () => actions.undo() });
    await queue.load();
    if (queue.shown) await actions.goTo(queue.shown.item.row);
    await actions.refresh();
  }

  return el("details", { class: "card" }, el("summary", {}, el("h2", { text: t("correct.replace") })),
    el("p", { class: "soft", text: t("correct.replace.hint") }),
    el("form", { onsubmit: preview },
      el("div", { class: "correct-filters" },
        field("correct-find", t("correct.replace.find"), find), field("correct-by", t("correct.replace.with"), by),
        el("label", { class: "check" }, matchCase, t("correct.replace.case")),
        el("label", { class: "check" }, words, t("correct.replace.words")),
        el("button", { type: "submit", text: t("correct.replace.preview") }))),
    result);
}

function helperCard(tools, actions, commands) {
  const { t, api } = tools;
  const known = el("p", { class: "soft small numbers" });
  const score = button(t("correct.score"), { onclick: () => commands.start("score") });
  const alike = button(t("correct.alike.find"), { onclick: () => api("/api/correct/alike", { json: {} }).then(actions.refresh) });
  const state = el("p", { class: "soft small numbers", role: "status" });
  let timer = null;

  function draw(summary) {
    known.textContent = t("correct.score.known", { count: tools.number(summary.scored), total: tools.number(summary.total) });
    score.hidden = !summary.model;
    const { alike: found } = summary;
    alike.disabled = ["running", "done"].includes(found.state);
    state.textContent = {
      running: t("correct.alike.running", { done: tools.number(found.done), total: tools.number(found.total) }),
      done: t("correct.alike.done", { groups: tools.number(found.groups) }),
      failed: t("correct.alike.failed", { reason: found.error }),
    }[found.state] || "";
    clearTimeout(timer);
    if (found.state === "running") timer = setTimeout(actions.refresh, ALIKE_EVERY);
  }

  const element = el("details", { class: "card" }, el("summary", {}, el("h2", { text: t("correct.helpers") })),
    el("div", { class: "correct-pair" },
      el("div", {}, el("p", { text: t("correct.score.hint") }), known, score),
      el("div", {}, el("p", { text: t("correct.alike.hint") }), state, alike)));
  return { element, draw, end: () => clearTimeout(timer) };
}

function finishCard(tools, actions, commands) {
  const { t, api } = tools;
  const buttons = el("div", { class: "toolbar" });
  const result = el("p", { class: "correct-written", role: "status" });
  const train = button(t("correct.train.start"), { class: "main", onclick: () => start() });
  const no = el("p", { class: "soft", text: t("correct.train.no") });

  async function write(form) {
    const done = await api("/api/correct/write", { json: { form } });
    const values = { captions: tools.number(done.captions), left_out: tools.number(done.left_out), place: done.place };
    result.textContent = t("correct.write.done", values);
    return done;
  }

  let usual = "captions";
  async function start() {
    await write(usual);
    await commands.start("train");
  }

  function draw(summary) {
    usual = summary.forms[0];
    if (!buttons.children.length) {
      buttons.append(...summary.forms.map((form) => button(t(`correct.write.${form}`), { onclick: () => write(form) })));
    }
    train.hidden = !summary.can_train;
    no.hidden = summary.can_train;
  }

  const element = el("div", { class: "card correct-pair" },
    el("section", { "aria-labelledby": "correct-write-title" },
      el("h2", { id: "correct-write-title", text: t("correct.write") }), el("p", { class: "soft", text: t("correct.write.hint") }), buttons, result),
    el("section", { "aria-labelledby": "correct-train-title" },
      el("h2", { id: "correct-train-title", text: t("correct.train") }), el("p", { class: "soft", text: t("correct.train.hint") }), no, train));
  return { element, draw };
}

function historyCard(tools, actions) {
  const { t, api } = tools;
  const list = el("ol", { class: "correct-history" });
  const more = button(t("correct.history.more"), { class: "quiet", hidden: true, onclick: () => load(list.lastChild?.dataset.number) });
  const element = el("details", { class: "card", ontoggle: () => element.open && load() },
    el("summary", {}, el("h2", { text: t("correct.history") })), list, more);

  async function load(before = "") {
    const { entries } = await api(`/api/correct/history?limit=20&before=${before}`);
    const rows = entries.map((entry) => row(entry));
    if (before) list.append(...rows);
    else list.replaceChildren(...(rows.length ? rows : [el("li", { class: "soft", text: t("correct.history.none") })]));
    more.hidden = entries.length < 20;
  }

  function row(entry) {
    const { first } = entry;
    const when = new Date(entry.at).toLocaleString(tools.language === "zh" ? "zh-CN" : "en-GB", { dateStyle: "medium", timeStyle: "short" });
    const texts = first.before.caption === first.after.caption
      ? [el("span", { dir: "auto", text: first.after.caption || t("correct.no.caption") })]
      : [el("del", { dir: "auto", text: first.before.caption || t("correct.no.caption") }), " → ", el("ins", { dir: "auto", text: first.after.caption || t("correct.no.caption") })];
    return el("li", { dataset: { number: entry.number } },
      el("div", {},
        el("p", { class: "small soft" }, el("bdi", { text: entry.who }), ` ${t(`correct.action.${entry.action}`)} · `, el("bdi", { text: first.image }), ` · ${when}`,
          entry.count > 1 && ` · ${t("correct.history.and", { count: tools.number(entry.count - 1) })}`),
        el("p", {}, texts)),
      entry.undone
        ? el("span", { class: "badge warm", text: t("correct.history.undone") })
        : !entry.undoes && button(t("correct.undo"), { class: "quiet", onclick: () => actions.undo(entry.number) }));
  }

  return { element, changed: () => element.open && load() };
}
