// The result of a comparison: preference with its interval, judges, agreement, check, and every picture.

import { button, el } from "./dom.js";
import { notedFingerprint, sideLabel } from "./judge.js";

const SVG = "http://www.w3.org/2000/svg";
const ROWS = 24;

export async function mountResult(element, tools, name) {
  const { t } = tools;
  const path = `/api/judge/sessions/${encodeURIComponent(name)}`;
  const found = await tools.api(`${path}/result`);
  const names = { baseline: sideLabel(found.baseline, tools), candidate: sideLabel(found.candidate, tools) };
  const heading = t("judge.session", { first: names.baseline, second: names.candidate });
  const links = el("div", { class: "toolbar" }, el("a", { href: `#judge/${name}`, text: t("judge.continue") }), el("a", { href: "#judge", text: t("judge.back.list") }));
  element.append(el("div", { class: "toolbar spread" }, el("h1", { text: heading }), links));
  const judges = Object.entries(found.judges);
  if (!judges.length) {
    element.append(el("p", { class: "empty", text: t("judge.none") }));
    return;
  }
  element.append(
    el("section", { class: "card judge-verdict" }, verdict(found.together, names, tools)),
    el("section", { class: "judge-block" }, el("h2", { text: t("judge.judges") }), table(found, judges, names, tools), el("p", { class: "hint", text: t("judge.together.hint") })),
    el(
      "div",
      { class: "judge-columns judge-block" },
      el("section", { class: "card" }, el("h2", { text: t("judge.agreement") }), el("p", { text: agreement(found, judges, tools) })),
      el("section", { class: "card" }, el("h2", { text: t("judge.check") }), check(found, name, tools)),
    ),
    logging(found, path, tools),
    pictures(found, judges, names, path, tools),
  );
}

function verdict(together, names, tools) {
  const { t, number } = tools;
  const decided = together.candidate + together.baseline;
  const percent = (value) => number(100 * value, 0);
  const sentence = decided
    ? t("judge.share", {
        ...names, won: together.candidate, decided, share: percent(together.share),
        low: percent(together.low), high: percent(together.high), p: shownP(together.p_value),
      })
    : t("judge.share.none");
  return [
    el("p", { class: "judge-headline", text: t(`judge.verdict.${together.verdict}`, names) }),
    decided ? bar(together, names, tools) : null,
    el("p", { text: sentence }),
  ].filter(Boolean);
}

/** A line from 0 to 100 % with the interval, the share and a mark at 50 %. */
function bar(together, names, tools) {
  const make = (tag, attributes) => {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const x = (share) => 2 + 96 * share;
  const svg = make("svg", { viewBox: "0 0 100 9", class: "judge-bar", role: "img", "aria-label": tools.t("judge.bar", names), preserveAspectRatio: "none" });
  svg.append(
    make("line", { class: "axis", x1: x(0), x2: x(1), y1: 4.5, y2: 4.5 }),
    make("line", { class: "half", x1: x(0.5), x2: x(0.5), y1: 0.5, y2: 8.5 }),
    make("line", { class: "interval", x1: x(together.low), x2: x(together.high), y1: 4.5, y2: 4.5 }),
    make("line", { class: "share", x1: x(together.share), x2: x(together.share), y1: 1.5, y2: 7.5 }),
  );
  const scale = el("div", { class: "judge-scale small soft", "aria-hidden": "true" }, el("span", { text: names.baseline }), el("span", { text: tools.t("judge.half") }), el("span", { text: names.candidate }));
  return el("div", {}, svg, scale);
}

function shownP(value) {
  return value < 0.001 ? value.toExponential(1) : value.toFixed(3);
}

function table(found, judges, names, tools) {
  const { t, number } = tools;
  const rows = judges.length > 1 ? [...judges, [t("judge.together"), found.together]] : judges;
  const several = judges.length > 1;
  const heads = [
    t("judge.judge"), t("judge.judged"), t("judge.prefers", { name: names.candidate }), t("judge.prefers", { name: names.baseline }), t("judge.ties"),
    ...(several ? [t("judge.split")] : []), t("judge.percent", { name: names.candidate }), t("judge.interval"), t("judge.p"),
  ];
  const cells = (each) => [
    each.pictures, each.candidate, each.baseline, `${each.both} / ${each.neither}`, ...(several ? [each.split] : []),
    each.share === null ? "–" : `${number(100 * each.share, 0)} %`,
    each.share === null ? "–" : `${number(100 * each.low, 0)}–${number(100 * each.high, 0)} %`,
    shownP(each.p_value),
  ];
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": t("judge.judges") },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, heads.map((text, index) => el("th", { scope: "col", class: index ? "number" : "", text })))),
      el(
        "tbody",
        {},
        rows.map(([name, each], index) =>
          el("tr", { class: several && index === rows.length - 1 ? "judge-total" : "" }, el("th", { scope: "row", text: name }), cells(each).map((text) => el("td", { class: "number", text: String(text) }))),
        ),
      ),
    ),
  );
}

function agreement(found, judges, tools) {
  const { kappa, shared, equal } = found.agreement;
  if (judges.length < 2 || !shared) return tools.t("judge.alone");
  const values = { shared, equal, kappa: kappa === null ? "" : kappa.toFixed(2) };
  return tools.t(kappa === null ? "judge.kappa.none" : "judge.kappa", values);
}

function check(found, name, tools) {
  const { t } = tools;
  const noted = notedFingerprint(name);
  const own = noted === null ? [] : [el("p", { class: noted === found.fingerprint ? "" : "problem", text: t(noted === found.fingerprint ? "judge.check.own" : "judge.check.other") })];
  const problems = found.problems.slice(0, 5).map((text) => el("p", { class: "problem", text }));
  const { left, right, p_value: p } = found.sides;
  return [
    ...(problems.length ? problems : [el("p", { text: t("judge.check.good") })]),
    ...own,
    el("p", { class: "soft small", text: t("judge.sides", { left, right, p: shownP(p) }) }),
    found.equal ? el("p", { class: "soft small", text: t("judge.equal", { equal: found.equal }) }) : "",
    el("p", { class: "mono", text: t("judge.seed", { seed: found.seed }) }),
    el("p", { class: "mono judge-fingerprint", text: found.fingerprint }),
  ];
}

function logging(found, path, tools) {
  const { t } = tools;
  const said = el("span", { class: "small soft", role: "status", text: found.run ? t("judge.logged", { run: found.run }) : "" });
  const log = el("button", { type: "button", text: t(found.run ? "judge.log.again" : "judge.log") });
  log.addEventListener("click", async () => {
    log.disabled = true;
    try {
      const { run } = await tools.api(`${path}/log`, { method: "POST" });
      said.textContent = t("judge.logged", { run });
      log.textContent = t("judge.log.again");
    } catch (error) {
      if (!(error instanceof tools.Refused)) throw error;
    } finally {
      log.disabled = false;
    }
  });
  const download = el("a", { class: "button", href: `${path}/file`, download: "", text: t("judge.download") });
  return el("div", { class: "toolbar judge-block" }, log, download, said);
}

function pictures(found, judges, names, path, tools) {
  const { t } = tools;
  const list = el("div", { class: "judge-cards" });
  const more = button(t("judge.more"));
  const places = new Map(found.pairs.map((pair, place) => [pair.key, place]));
  const judged = found.pairs.filter((pair) => Object.keys(pair.choices).length);
  const divided = judged.filter((pair) => new Set(Object.values(pair.choices)).size > 1);
  let rows = judged;
  let shown = 0;
  const grow = () => {
    list.append(...rows.slice(shown, shown + ROWS).map((pair) => card(pair, places.get(pair.key), names, path, tools)));
    shown += ROWS;
    more.hidden = shown >= rows.length;
  };
  const choose = (wanted) => {
    rows = wanted;
    shown = 0;
    list.replaceChildren();
    grow();
    for (const each of filter.children) each.setAttribute("aria-pressed", String(each.rows === wanted));
  };
  const option = (text, wanted) => {
    const made = el("button", { type: "button", text: `${text} (${wanted.length})`, onclick: () => choose(wanted) });
    made.rows = wanted;
    return made;
  };
  const filter = el("div", { class: "segments" }, option(t("judge.all"), judged), judges.length > 1 ? option(t("judge.divided"), divided) : null);
  more.addEventListener("click", grow);
  choose(judged);
  return el(
    "section",
    {},
    el("div", { class: "toolbar spread judge-block" }, el("h2", { text: t("judge.pictures") }), judges.length > 1 ? filter : null),
    list,
    el("div", { class: "toolbar end" }, more),
  );
}

function card(pair, place, names, path, tools) {
  const { t } = tools;
  const by = (choice) => Object.entries(pair.choices).filter(([, given]) => given === choice).map(([judge]) => judge);
  const line = (side) => {
    const judges = by(side);
    return el(
      "p",
      { class: judges.length ? "judge-chosen" : "" },
      el("span", { class: "soft small", text: names[side] }),
      el("span", { class: "judge-text", lang: pair.language === "zh" ? "zh-CN" : pair.language, dir: "auto", text: pair[side] || t("judge.empty") }),
      judges.length ? el("span", { class: "badge good", text: t("judge.preferred.by", { names: judges.join(", ") }) }) : null,
    );
  };
  const ties = ["both", "neither"].filter((choice) => by(choice).length);
  return el(
    "article",
    { class: "card" },
    el("img", { src: `${path}/pictures/${place}`, alt: t("judge.picture", { place: place + 1 }), loading: "lazy" }),
    el(
      "div",
      { class: "judge-card-text" },
      line("baseline"),
      line("candidate"),
      ties.map((choice) => el("p", { class: "soft small", text: t("judge.tied.by", { what: t(`judge.${choice}`), names: by(choice).join(", ") }) })),
    ),
  );
}
