// Parts that a version and a comparison share: charts, tables, and a gallery that grows.

import { button, el } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const ROWS = 24;

function svg(tag, attributes, text = null) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}

/** Charts of learning curves. The server has computed the paths. */
export function charts(curves, tools, label = (line) => line.name) {
  return el("div", { class: "versions-charts" }, curves.map((curve) => chart(curve, tools, label)));
}

function chart(curve, tools, label) {
  const names = curve.lines.map(label);
  const described = tools.t("versions.curve", {
    names: [curve.title, ...names].filter(Boolean).join(", "), axis: curve.axis, low: curve.ticks[0].label, high: curve.ticks.at(-1).label,
  });
  const drawing = svg("svg", { viewBox: `0 0 ${curve.width} ${curve.height}`, role: "img", "aria-label": described });
  for (const tick of curve.ticks) {
    drawing.append(
      svg("line", { class: "axis", x1: 52, x2: curve.width - 12, y1: tick.y, y2: tick.y }),
      svg("text", { x: 44, y: tick.y + 4, "text-anchor": "end" }, tick.label),
    );
  }
  drawing.append(
    svg("text", { x: 52, y: curve.height - 6 }, `${curve.axis} ${curve.left}`),
    svg("text", { x: curve.width - 12, y: curve.height - 6, "text-anchor": "end" }, curve.right),
  );
  curve.lines.forEach((line, index) => drawing.append(svg("path", { class: `curve k${index % 4}`, d: line.path })));
  const keys = curve.lines.map((line, index) => el("span", { class: `key k${index % 4}` }, `${names[index]} `, el("b", { class: "numbers", text: line.last })));
  return el("figure", {}, el("figcaption", {}, curve.title ? el("b", { text: curve.title }) : null, keys), drawing);
}

/** A table that scrolls on narrow windows. The first cell of a row is its heading; numbers stand on the right. */
export function dataTable(label, heads, rows, numbers = true) {
  const kind = (index) => (numbers && index ? "number" : "");
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, heads.map((text, index) => el("th", { scope: "col", class: kind(index), text })))),
      el("tbody", {}, rows.map(([head, ...cells]) => el("tr", {}, el("th", { scope: "row", text: head }), cells.map((cell) => el("td", { class: numbers ? "number" : "" }, cell))))),
    ),
  );
}

/** A grid of pictures with captions that are asked for in pages, with search and order. */
export function gallery(tools, path, orders, card, title) {
  const { t } = tools;
  const list = el("div", { class: "versions-cards" });
  const count = el("output", { class: "soft small" });
  const more = button(t("versions.more"));
  const find = el("input", { type: "search", placeholder: t("versions.find"), "aria-label": t("versions.find") });
  const order = el("select", { "aria-label": t("versions.order") }, orders.map((name) => el("option", { value: name, text: t(`versions.order.${name}`) })));
  let shown = 0;
  let asked = 0;

  function picture(row) {
    const query = new URLSearchParams({ digest: row.digest || "", image: row.image, side: 360 });
    const image = el("img", { src: `/api/versions/picture?${query}`, alt: row.image, loading: "lazy" });
    image.addEventListener("error", () => image.replaceWith(el("p", { class: "versions-missing soft small", text: `${row.image}: ${t("versions.no.picture")}` })));
    return image;
  }

  async function load(fresh) {
    const mine = ++asked;
    if (fresh) shown = 0;
    const query = new URLSearchParams({ find: find.value.trim(), order: order.value, offset: shown, limit: ROWS });
    const found = await tools.api(`${path}?${query}`);
    if (mine !== asked) return; // a later question is on its way
    if (fresh) list.replaceChildren();
    list.append(...found.rows.map((row) => card(row, picture, tools)));
    shown += found.rows.length;
    more.hidden = shown >= found.total;
    count.textContent = t("versions.count", { shown, total: found.total });
  }

  let waiting = 0;
  find.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => load(true), 150);
  });
  order.addEventListener("change", () => load(true));
  more.addEventListener("click", () => load(false));
  load(true);
  return el(
    "section",
    {},
    el("h2", { text: t(title) }),
    el("div", { class: "versions-tools" }, find, order, count),
    list,
    el("div", { class: "toolbar end" }, more),
  );
}
