// Versions: the list, one version, and two beside each other, as the address says.

import { el } from "./dom.js";
import { mountComparison } from "./versions_compare.js";
import { charts, dataTable, gallery } from "./versions_parts.js";

export async function mount(element, tools) {
  const [first, second, third] = tools.route;
  if (first === "compare" && second && third) return mountComparison(element, tools, second, third);
  if (first && first !== "compare") return mountVersion(element, tools, first);
  return mountList(element, tools);
}

export function registeredOn(time, tools) {
  return new Date(time).toLocaleString(tools.language === "zh" ? "zh-CN" : "en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export function badges(version, tools) {
  return version.aliases.map((alias) => el("span", { class: alias === "champion" ? "badge" : "badge warm", text: tools.alias(alias) }));
}

async function mountList(element, tools) {
  const { t } = tools;
  element.append(el("h1", { text: t("versions.title") }), el("p", { class: "lead", text: t("versions.lead") }));
  const versions = await tools.api("/api/versions/list");
  if (!versions.length) {
    element.append(el("p", { class: "empty", text: t("versions.none") }));
    return;
  }
  if (versions.length > 1) element.append(compareForm(versions, tools));
  element.append(el("div", { class: "versions-list" }, versions.map((version) => row(version, tools))));
}

function row(version, tools) {
  const { t } = tools;
  const name = t("versions.version", { number: version.number });
  return el(
    "article",
    { class: "card versions-row" },
    el(
      "div",
      { class: "versions-name" },
      el("h2", {}, el("a", { href: `#versions/${version.number}`, text: name })),
      el("div", { class: "toolbar" }, badges(version, tools), el("span", { class: "soft small", text: registeredOn(version.created, tools) })),
    ),
    el(
      "dl",
      { class: "versions-figures" },
      version.metrics.map((metric) => el("div", {}, el("dt", { text: metric.label }), el("dd", { class: "numbers", text: metric.value }))),
    ),
    version.reason ? el("p", { class: "soft small versions-reason", text: version.reason }) : null,
  );
}

function compareForm(versions, tools) {
  const { t } = tools;
  const champion = versions.find((version) => version.aliases.includes("champion")) || versions[1];
  const other = versions.find((version) => version.number !== champion.number);
  const select = (id, chosen) => {
    const options = versions.map((version) =>
      el("option", { value: version.number, text: [t("versions.version", { number: version.number }), ...version.aliases.map(tools.alias)].join(" · ") }),
    );
    const made = el("select", { id }, options);
    made.value = chosen.number;
    return made;
  };
  const baseline = select("versions-baseline", champion);
  const candidate = select("versions-candidate", other);
  const compare = (event) => {
    event.preventDefault();
    if (baseline.value !== candidate.value) location.hash = `#versions/compare/${baseline.value}/${candidate.value}`;
  };
  return el(
    "form",
    { class: "versions-form", onsubmit: compare },
    el("div", { class: "field" }, el("label", { for: "versions-baseline", text: t("versions.baseline") }), baseline),
    el("div", { class: "field" }, el("label", { for: "versions-candidate", text: t("versions.candidate") }), candidate),
    el("button", { class: "main", text: t("versions.compare") }),
  );
}

async function mountVersion(element, tools, number) {
  const { t } = tools;
  const path = `/api/versions/of/${encodeURIComponent(number)}`;
  const version = await tools.api(path);
  element.append(
    el("div", { class: "toolbar spread" }, el("h1", { text: t("versions.version", { number }) }), el("a", { href: "#versions", text: t("versions.all") })),
    el("div", { class: "toolbar" }, badges(version, tools), el("span", { class: "soft small", text: registeredOn(version.created, tools) })),
  );
  if (version.reason) element.append(el("p", { class: "versions-reason", text: version.reason }));
  for (const note of version.notes) element.append(el("p", { class: "note small", text: note }));
  element.append(
    el("div", { class: "versions-columns" }, scores(version, tools), curvesOf(version, tools)),
    preferences(version, tools),
    version.captions ? gallery(tools, `${path}/captions`, ["worst", "best", "file"], captionCard, "versions.gallery") : "",
    version.has_report ? report(version, path, tools) : "",
    lineage(version, tools),
  );
}

function scores(version, tools) {
  const { t } = tools;
  const rows = version.scores.map((each) => [each.label, each.value, each.interval]);
  return el(
    "section",
    {},
    el("h2", { text: t("versions.scores") }),
    rows.length
      ? dataTable(t("versions.scores"), [t("versions.metric"), t("versions.value"), t("versions.interval")], rows)
      : el("p", { class: "soft", text: t("versions.scores.none") }),
  );
}

function curvesOf(version, tools) {
  const { t } = tools;
  return el(
    "section",
    {},
    el("h2", { text: t("versions.curves") }),
    version.curves.length ? charts(version.curves, tools) : el("p", { class: "soft", text: t("versions.curves.none") }),
  );
}

function preferences(version, tools) {
  if (!version.preferences.length) return "";
  const percent = (share) => tools.number(100 * share, 0);
  return el(
    "section",
    {},
    el("h2", { text: tools.t("versions.preference") }),
    version.preferences.map((each) =>
      el("p", {
        text: tools.t("versions.preferred", {
          ...each, decided: each.preferred + each.other, other: each.version, low: percent(each.low), high: percent(each.high),
        }),
      }),
    ),
  );
}

function captionCard(row, picture, tools) {
  const { t } = tools;
  const lang = row.language === "zh" ? "zh-CN" : row.language;
  return el(
    "article",
    { class: "card versions-card" },
    picture(row),
    el("p", { class: "versions-text", lang, dir: "auto", text: row.caption || t("versions.empty") }),
    el(
      "div",
      { class: "toolbar" },
      row.true === null || row.true === undefined ? null : el("span", { class: `badge ${row.true ? "good" : "bad"}`, text: t(row.true ? "versions.true" : "versions.false") }),
      row.cider === null ? null : el("span", { class: "soft small numbers", text: `CIDEr ${row.cider.toFixed(2)}` }),
    ),
    row.references.length
      ? el("details", {}, el("summary", { class: "small", text: t("versions.references") }), el("ul", { class: "small", lang, dir: "auto" }, row.references.map((text) => el("li", { text }))))
      : null,
  );
}

function report(version, path, tools) {
  const { t } = tools;
  const frame = el("details", { class: "versions-report" }, el("summary", { text: t("versions.report") }));
  frame.addEventListener("toggle", () => {
    if (!frame.open || frame.querySelector("iframe")) return;
    frame.append(
      el("p", {}, el("a", { href: `${path}/report`, target: "_blank", rel: "noopener", text: t("versions.report.open") })),
      el("iframe", { src: `${path}/report`, sandbox: "allow-scripts", title: t("versions.report.frame", { number: version.number }) }),
    );
  });
  return el("section", {}, frame);
}

function lineage(version, tools) {
  const { t } = tools;
  const heading = el("summary", { text: t("versions.how") });
  if (!version.facts.length) return el("details", {}, heading, el("p", { class: "soft", text: t("versions.how.none") }));
  return el("details", {}, heading, dataTable(t("versions.how"), [t("versions.name"), t("versions.value")], version.facts.map((fact) => [fact.name, fact.value]), false));
}
