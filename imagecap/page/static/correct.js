// The section Correct: filters, the list of captions, and the keys. The row that is shown is in correct_editor.js.

import { el } from "./dom.js";
import { Editor } from "./correct_editor.js";
import { Queue } from "./correct_queue.js";
import { toolCards } from "./correct_tools.js";

const STATES = ["open", "accepted", "edited", "skipped", "unusable"];
const KINDS = { accepted: "good", edited: "good", skipped: "warm", unusable: "bad" };

export async function mount(element, tools) {
  const { t, api } = tools;
  const queue = new Queue(tools);
  let summary = await api("/api/correct/summary");
  const usual = summary.scored ? "certainty" : summary.languages.none < summary.total ? "uncaptioned" : "file";
  queue.readAddress(`state=open&order=${usual}`);

  const progress = el("progress", { max: summary.total, value: 0, "aria-label": t("correct.title") });
  const progressText = el("span", { class: "soft small numbers" });
  const count = el("span", { class: "soft small numbers", role: "status" });
  const list = el("ol", { class: "correct-list" });
  const previousPage = el("button", { type: "button", class: "quiet", text: t("correct.previous.page"), onclick: () => turn(() => queue.previousPage()) });
  const nextPage = el("button", { type: "button", class: "quiet", text: t("correct.next.page"), onclick: () => turn(() => queue.nextPage()) });
  const editor = new Editor(queue, tools, { decided, goTo, step, undo });
  const filters = filterForm(queue, summary, tools, () => turn(() => queue.firstPage()));
  const name = el("input", {
    id: "correct-who", value: queue.who, maxlength: 80, autocomplete: "nickname",
    onchange: (event) => (queue.who = event.target.value.trim()), "aria-describedby": "correct-who-hint",
  });
  const empty = el("div", { class: "empty", hidden: true }, el("h2", { text: t("correct.nothing") }), el("p"));
  const cards = toolCards(queue, tools, { refresh, goTo, undo });

  element.append(
    el("div", { class: "correct-head" },
      el("div", {}, el("h1", { text: t("correct.title") }), el("p", { class: "lead", text: t("correct.lead") })),
      el("div", { class: "field correct-who" }, el("label", { for: "correct-who", text: t("correct.you") }), name,
        el("p", { class: "hint", id: "correct-who-hint", text: t("correct.you.hint") })),
    ),
    el("div", { class: "correct-progress" }, progress, progressText),
    filters.element,
    el("div", { class: "correct-work" },
      el("section", { class: "correct-main", "aria-label": t("correct.caption") }, editor.element, empty),
      el("section", { class: "correct-side card", "aria-labelledby": "correct-list-title" },
        el("div", { class: "toolbar spread" }, el("h2", { id: "correct-list-title", text: t("correct.list") }), count),
        list,
        el("div", { class: "toolbar spread" }, previousPage, nextPage)),
    ),
    cards.element,
  );

  function drawSummary() {
    const done = summary.total - summary.states.open;
    progress.value = done;
    progressText.textContent = t("correct.progress", { done: tools.number(done), total: tools.number(summary.total) });
    filters.draw(summary);
    cards.draw(summary);
  }

  function drawList() {
    const { items, position, total } = queue;
    count.textContent = total && items.length
      ? t("correct.count", { from: tools.number(position + 1), to: tools.number(position + items.length), total: tools.number(total) })
      : t("correct.count.none");
    previousPage.disabled = position === 0;
    nextPage.disabled = !queue.hasNextPage;
    list.replaceChildren(...items.map((item) => row(item)));
  }

  function row(item) {
    const current = queue.shown?.item.row === item.row;
    const state = item.state === "open" ? null : el("span", { class: `badge ${KINDS[item.state]}`, text: t(`correct.state.${item.state}`) });
    return el("li", {},
      el("button", { type: "button", class: "correct-row", dataset: { row: item.row }, "aria-current": current ? "true" : null, onclick: () => goTo(item.row) },
        el("img", { src: `/api/correct/picture/${item.row}?side=160`, alt: "", loading: "lazy", width: 56, height: 56 }),
        el("span", { class: "correct-row-text" },
          el("span", { class: item.caption ? "correct-row-caption" : "correct-row-caption soft", dir: "auto", text: item.caption || t("correct.no.caption") }),
          el("span", { class: "correct-row-facts" }, el("bdi", { class: "soft small", text: item.image }), state)),
      ));
  }

  async function goTo(row, focusCaption = false) {
    editor.draw(await queue.show(row), focusCaption);
    empty.hidden = true;
    editor.element.hidden = false;
    drawList();
    reveal(list, list.querySelector("[aria-current]"));
  }

  /** Load another page, and show its first row. */
  async function turn(load, focusCaption = false) {
    await load();
    filters.write();
    if (queue.items.length) {
      await goTo(queue.items[0].row, focusCaption);
      return;
    }
    queue.shown = null;
    drawList();
    editor.element.hidden = true;
    empty.hidden = false;
    const decided = summary.states.open === 0;
    empty.querySelector("p").textContent = t(decided ? "correct.nothing.done" : "correct.nothing.filtered");
    tools.announce(empty.textContent);
  }

  /** Go to the next row (1) or the one before (-1), on the next page where this one ends. */
  async function step(by, focusCaption = false) {
    const place = queue.items.findIndex((each) => each.row === queue.shown?.item.row) + by;
    if (place >= 0 && place < queue.items.length) await goTo(queue.items[place].row, focusCaption);
    else if (by > 0) {
      const last = queue.items.at(-1)?.row;
      await turn(() => queue.nextPage(), focusCaption);
      if (!queue.items.length && last !== undefined && queue.total) await turn(() => queue.firstPage(), focusCaption);
    } else if (queue.position > 0) {
      await queue.previousPage();
      await goTo(queue.items.at(-1).row, focusCaption);
    }
  }

  async function decided(item, focusCaption) {
    tools.announce(t(`correct.said.${item.state}`));
    summary.states[item.state] += 1;
    await step(1, focusCaption);
    refresh().catch(() => {}); // not awaited: the next key counts
  }

  async function undo(number = null) {
    const done = await queue.undo(number);
    tools.toast(t("correct.undone", { count: done.rows }));
    await goTo(done.item.row);
    await refresh();
  }

  async function refresh() {
    summary = await api("/api/correct/summary", { quiet: true });
    drawSummary();
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (typing || !editor.keysAreOn || editor.element.hidden) return;
    const action = editor.keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
  document.addEventListener("keydown", onKey);

  drawSummary();
  await turn(() => queue.load());
  if (!queue.items.length && (queue.after !== null || queue.before !== null)) await turn(() => queue.firstPage());
  return () => {
    document.removeEventListener("keydown", onKey);
    cards.end();
  };
}

/** Scroll a list so that an element in it is seen, and leave the page where it is. */
function reveal(list, element) {
  if (!element) return;
  const [outer, inner] = [list.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
}

/** The form of filters and order; `changed` is called when one of them was changed. */
function filterForm(queue, summary, tools, changed) {
  const { t } = tools;
  const set = (name, value) => {
    if (name === "order") queue.order = value;
    else queue.filter[name] = value;
    changed();
  };
  const select = (name, label, options) => {
    const id = `correct-${name}`;
    const box = el("select", { id, onchange: (event) => set(name, event.target.value) },
      options.map((value) => el("option", { value, text: t(`correct.${name}.${value || "any"}`) })));
    return el("div", { class: "field" }, el("label", { for: id, text: label }), box);
  };
  const input = (name, label, properties) => {
    const id = `correct-${name}`;
    const box = el("input", { id, onchange: (event) => set(name, event.target.value.trim()), ...properties });
    return el("div", { class: "field" }, el("label", { for: id, text: label }), box);
  };
  const whole = (placeholder) => ({ type: "number", min: 0, step: 1, inputmode: "numeric", placeholder });
  const certainty = [input("least", t("correct.least"), { ...whole("%"), max: 100 }), input("most", t("correct.most"), { ...whole("%"), max: 100 })];
  const more = el("div", { class: "correct-filters" },
    select("language", t("correct.language"), ["", "en", "zh", "none"]),
    input("shortest", t("correct.shortest"), whole(t("correct.characters"))),
    input("longest", t("correct.longest"), whole(t("correct.characters"))),
    ...certainty,
    el("button", {
      type: "button", text: t("correct.clear"), onclick: () => {
        queue.filter = {};
        changed();
      },
    }));
  const narrow = el("details", { class: "correct-more" }, el("summary", { text: t("correct.filters") }), more);
  narrow.open = ["language", "shortest", "longest", "least", "most"].some((name) => queue.filter[name]);
  const element = el("form", { class: "card correct-form", onsubmit: (event) => event.preventDefault() },
    el("div", { class: "correct-filters" },
      select("state", t("correct.state"), ["", ...STATES]),
      select("order", t("correct.order"), summary.orders),
      input("word", t("correct.word"), { type: "search", enterkeyhint: "search", dir: "auto" })),
    narrow);

  /** Show in the form what the queue has. */
  function write() {
    for (const box of element.querySelectorAll("input, select")) {
      const name = box.id.replace("correct-", "");
      box.value = name === "order" ? queue.order : queue.filter[name] || "";
    }
  }

  function draw(now) {
    for (const option of element.querySelectorAll("#correct-state option")) {
      const amount = option.value ? now.states[option.value] : now.total;
      option.textContent = `${t(`correct.state.${option.value || "any"}`)} (${tools.number(amount)})`;
    }
    const ready = { certainty: now.scored > 0, doubt: now.scored > 0, alike: now.alike.groups > 0 };
    for (const option of element.querySelectorAll("#correct-order option")) {
      option.disabled = ready[option.value] === false;
    }
    for (const field of certainty) field.hidden = !now.scored;
  }

  write();
  return { element, draw, write };
}
