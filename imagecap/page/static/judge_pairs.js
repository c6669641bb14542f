// Judging: one picture, two captions, four answers.

import { el } from "./dom.js";
import { noteFingerprint } from "./judge.js";

const ANSWERS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "both", ArrowDown: "neither" };
const SIGNS = { left: "←", right: "→", both: "↑", neither: "↓" };

export async function mountPairs(element, tools, name, judge) {
  const { t } = tools;
  const path = `/api/judge/sessions/${encodeURIComponent(name)}`;
  const session = await tools.api(`${path}?judge=${encodeURIComponent(judge)}`);
  noteFingerprint(name, session.fingerprint);
  const { pairs } = session;
  const answered = () => pairs.filter((pair) => pair.answer).length;
  let place = Math.max(0, pairs.findIndex((pair) => !pair.answer));
  let since = performance.now();
  let sending = false;

  const where = el("h1", { class: "judge-where" });
  const done = el("span", { class: "soft numbers" });
  const progress = el("progress", { max: pairs.length });
  const picture = el("img", { class: "judge-picture", alt: "" });
  const captions = Object.fromEntries(
    ["left", "right"].map((side) => [
      side,
      el(
        "button",
        { type: "button", class: "judge-caption", onclick: () => say(side), dataset: { answer: side } },
        el("span", { class: "judge-text" }),
        el("span", { class: "judge-side" }, el("kbd", { text: SIGNS[side], "aria-hidden": "true" }), " ", t(`judge.${side}`)),
      ),
    ]),
  );
  const ties = ["both", "neither"].map((answer) =>
    el("button", { type: "button", onclick: () => say(answer), dataset: { answer } }, el("kbd", { text: SIGNS[answer], "aria-hidden": "true" }), el("span", { text: t(`judge.${answer}`) })),
  );
  const back = el("button", { type: "button", class: "quiet", text: t("judge.undo"), onclick: () => go(place - 1) });
  const next = el("button", { type: "button", class: "quiet", text: t("judge.next"), onclick: () => go(place + 1) });
  const finished = el(
    "div",
    { class: "note judge-finished", hidden: true },
    el("p", { text: t("judge.finished", { count: pairs.length }) }),
    el("a", { class: "button", href: `#judge/${name}/result`, text: t("judge.see") }),
  );

  function draw() {
    const pair = pairs[place];
    where.textContent = t("judge.where", { place: place + 1, count: pairs.length });
    done.textContent = t("judge.done", { done: answered() });
    progress.value = answered();
    progress.setAttribute("aria-label", t("judge.progress", { name: judge, done: answered(), count: pairs.length }));
    picture.src = `${path}/pictures/${pair.place}`;
    picture.alt = t("judge.picture", { place: place + 1 });
    for (const side of ["left", "right"]) {
      const text = captions[side].firstChild;
      text.textContent = pair[side] || t("judge.empty");
      text.lang = pair.language === "zh" ? "zh-CN" : pair.language || "";
      text.dir = "auto";
    }
    for (const choice of [captions.left, captions.right, ...ties]) {
      choice.setAttribute("aria-pressed", String(choice.dataset.answer === pair.answer));
    }
    back.disabled = place === 0;
    next.disabled = place === pairs.length - 1;
    finished.hidden = answered() < pairs.length;
    if (place + 1 < pairs.length) new Image().src = `${path}/pictures/${pairs[place + 1].place}`;
    since = performance.now();
  }

  function go(to) {
    if (to < 0 || to >= pairs.length) return;
    place = to;
    draw();
  }

  async function say(answer) {
    if (sending) return; // a key that is held down judges one picture
    sending = true;
    const pair = pairs[place];
    const seconds = Math.min((performance.now() - since) / 1000, 1e5);
    try {
      const said = await tools.api(`${path}/judgments`, { json: { judge, key: pair.key, answer, seconds } });
      pair.answer = said.answer;
      const open = pairs.findIndex((each, index) => index > place && !each.answer);
      const before = open < 0 ? pairs.findIndex((each) => !each.answer) : open;
      if (before >= 0) place = before;
      draw();
      tools.announce(
        answered() === pairs.length
          ? t("judge.finished", { count: pairs.length })
          : t("judge.saved", { answer: t(`judge.${answer}`), place: place + 1, count: pairs.length }),
      );
      if (answered() === pairs.length) finished.lastChild.focus();
    } catch (error) {
      if (!(error instanceof tools.Refused)) throw error;
    } finally {
      sending = false;
    }
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.closest("dialog, input, select, textarea")) return;
    if (ANSWERS[event.key]) {
      event.preventDefault(); // the arrows would scroll
      say(ANSWERS[event.key]);
    } else if (event.key === "Backspace") {
      event.preventDefault();
      go(place - 1);
    }
  }

  async function leave(event) {
    if (answered() === pairs.length) return;
    event.preventDefault();
    const text = el("p", { text: t("judge.peek.text", { done: answered(), count: pairs.length, name: judge }) });
    const buttons = [
      { text: t("judge.peek.no"), value: false, kind: "main" },
      { text: t("judge.peek.yes"), value: true },
    ];
    if (await tools.dialog(t("judge.peek"), text, buttons)) location.hash = `#judge/${name}/result`;
  }

  element.append(
    el("div", { class: "toolbar spread" }, where, el("div", { class: "toolbar" }, done, el("a", { href: `#judge/${name}/result`, text: t("judge.result"), onclick: leave }), el("a", { href: "#judge", text: t("judge.back.list") }))),
    progress,
    finished,
    el("div", { class: "judge-stage" }, picture),
    el("p", { class: "judge-question", text: t("judge.question") }),
    el("div", { class: "judge-pair" }, captions.left, captions.right),
    el("div", { class: "judge-ties" }, ties),
    el("div", { class: "toolbar spread" }, back, el("span", { class: "soft small judge-keys", text: t("judge.keys") }), next),
    el(
      "details",
      {},
      el("summary", { text: t("judge.fingerprint") }),
      el("p", { class: "mono", text: session.fingerprint }),
      el("p", { class: "hint", text: t("judge.fingerprint.hint") }),
    ),
  );
  document.addEventListener("keydown", onKey);
  draw();
  return () => document.removeEventListener("keydown", onKey);
}
