import { el } from "./dom.js";

export function mount(element, tools) {
  element.append(el("h1", { text: tools.t("try.title") }));
}
