// Two versions beside each other: metrics, curves, how they were made, and the captions that changed.

import { el } from "./dom.js";
import { badges, registeredOn } from "./versions.js";
import { charts, dataTable, gallery } from "./versions_parts.js";

const KINDS = { better: "good", worse: "bad", "no sure difference": "" };

export async function mountComparison(element, tools, baseline, candidate) {
  const { t } = tools;
  const path = `/api/versions/compare/${encodeURIComponent(baseline)}/${encodeURIComponent(candidate)}`;
  const found = await tools.api(path);
  const names = [baseline, candidate].map((number) => t("versions.version", { number }));
  element.append(
    el("div", { class: "toolbar spread" }, el("h1", { text: `${names[0]} → ${names[1]}` }), el("a", { href: "#versions", text: t("versions.all") })),
    el("div", { class: "versions-heads" }, found.versions.map((version, index) => head(version, index, tools))),
    el(
      "div",
      { class: "toolbar" },
      el("a", { class: "button", href: `#versions/compare/${candidate}/${baseline}`, text: t("versions.swap") }),
      el("a", { class: "button", href: "#judge", text: t("versions.judge") }),
    ),
    metrics(found, names, tools),
  );
  if (found.curves.length) {
    const label = (line) => t("versions.version", { number: line.name });
    element.append(el("section", {}, el("h2", { text: t("versions.curves") }), charts(found.curves, tools, label)));
  }
  if (!found.problem) element.append(gallery(tools, `${path}/captions`, ["change", "better", "worse"], (row, picture) => card(row, picture, names, tools), "versions.changed"));
  const rows = found.differences.map((each) => [each.name, each.baseline, each.candidate]);
  element.append(
    el(
      "section",
      {},
      el("h2", { text: t("versions.differences") }),
      rows.length ? dataTable(t("versions.differences"), [t("versions.name"), ...names], rows, false) : el("p", { class: "soft", text: t("versions.differences.none") }),
    ),
  );
}

function head(version, index, tools) {
  return el(
    "div",
    { class: "card" },
    el("p", { class: "soft small", text: tools.t(index ? "versions.candidate" : "versions.baseline") }),
    el("h2", {}, el("a", { href: `#versions/${version.number}`, text: tools.t("versions.version", { number: version.number }) })),
    el("div", { class: "toolbar" }, badges(version, tools), el("span", { class: "soft small", text: registeredOn(version.created, tools) })),
  );
}

function metrics(found, names, tools) {
  const { t } = tools;
  if (found.problem) return ownScores(found, names, tools);
  const heads = [t("versions.metric"), ...names, t("versions.difference"), t("versions.interval"), t("versions.p"), t("versions.better"), t("versions.worse"), ""];
  const rows = found.changes.map((each) => [
    each.label, each.baseline, each.candidate, each.difference, each.interval, each.p, String(each.better), String(each.worse),
    el("span", { class: `badge ${KINDS[each.verdict]}`, text: t(`versions.verdict.${each.verdict}`) }),
  ]);
  return el(
    "section",
    {},
    el("h2", { text: t("versions.changes") }),
    dataTable(t("versions.changes"), heads, rows),
    el("p", { class: "hint", text: t("versions.compared", { n: found.captions }) }),
    found.other_references ? el("p", { class: "note", text: t("versions.other.references", { n: found.other_references, candidate: names[1] }) }) : null,
    found.left_out ? el("p", { class: "hint", text: t("versions.left.out", { n: found.left_out }) }) : null,
  );
}

/** The scores of two versions whose test data differ: both are shown, and not compared. */
function ownScores(found, names, tools) {
  const { t } = tools;
  const cell = (row, side) => el("span", {}, row.values[side], row.intervals[side] ? el("span", { class: "soft small", text: ` (${row.intervals[side]})` }) : null);
  return el(
    "section",
    {},
    el("h2", { text: t("versions.changes") }),
    el("p", { class: "note" }, `${t("versions.not.compared")} `, el("span", { lang: "en", text: found.problem })),
    found.scores.length
      ? dataTable(t("versions.changes"), [t("versions.metric"), ...names], found.scores.map((row) => [row.label, cell(row, 0), cell(row, 1)]))
      : el("p", { class: "soft", text: t("versions.scores.none.shared") }),
  );
}

function card(row, picture, names, tools) {
  const { t } = tools;
  const lang = row.language === "zh" ? "zh-CN" : row.language;
  const text = (side, name, cider) =>
    el(
      "div",
      {},
      el("p", { class: "soft small" }, `${name} · `, el("span", { class: "numbers", text: `CIDEr ${cider.toFixed(2)}` })),
      el("p", { class: "versions-text", lang, dir: "auto", text: row[side] || t("versions.empty") }),
    );
  return el(
    "article",
    { class: "card versions-card" },
    picture(row),
    text("baseline", names[0], row.baseline_CIDEr),
    text("candidate", names[1], row.candidate_CIDEr),
    el("details", {}, el("summary", { class: "small", text: t("versions.references") }), el("ul", { class: "small", lang, dir: "auto" }, row.references.map((each) => el("li", { text: each })))),
  );
}
