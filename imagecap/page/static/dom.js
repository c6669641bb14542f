// Elements without markup: text never becomes HTML.

/** Make an element. `properties`: `class`, `text`, `on…` listeners, `dataset`, and attributes; null and false leave out. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") element[name] = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make a line icon of 20 x 20 from a path, hidden from screen readers. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export const ICONS = {
  sun: "M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7M10 2v1.500M10 16.500V18M2 10h1.500M16.500 10H18M4.300 4.300l1.100 1.100M14.600 14.600l1.100 1.100M4.300 15.700l1.100-1.100M14.600 5.400l1.100-1.100",
  moon: "M16.500 11.800A7 7 0 0 1 8.200 3.500a7 7 0 1 0 8.300 8.300z",
  picture: "M3 4.500h14v11H3zM3.500 13.500l4-4 3 3 2-2 4 4M13 7.500h.01",
  camera: "M3 6.500h3l1.500-2h5l1.500 2h3v9H3zM10 8.500a2.700 2.700 0 1 0 0 5.400 2.700 2.700 0 0 0 0-5.400",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
  download: "M10 3v9M6.500 9l3.500 3.500L13.500 9M4 16h12",
  close: "M5 5l10 10M15 5L5 15",
  stop: "M6 6h8v8H6z",
  again: "M15.500 7A6 6 0 1 0 16 11M15.500 3.500V7H12",
  code: "M7 6l-4 4 4 4M13 6l4 4-4 4",
};

/** A button with an icon and a text. */
export function button(text, properties = {}, path = null) {
  return el("button", { type: "button", ...properties }, path ? icon(path) : null, el("span", { text }));
}
