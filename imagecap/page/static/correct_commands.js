// Commands in the background: their steps, what they print, and what came out of a training.

import { button, el } from "./dom.js";

const EVERY = 1000; // milliseconds between two questions
const KINDS = { done: "good", failed: "bad", stopped: "bad", running: "warm", waiting: "" };

export class CommandsView {
  constructor(tools, actions) {
    Object.assign(this, { tools, actions, timer: null, next: 0, state: "none" });
    const { t } = tools;
    this.title = el("h2");
    this.status = el("span", { class: "badge", role: "status" });
    this.steps = el("ol", { class: "correct-steps-list" });
    this.output = el("pre", { class: "correct-output", tabindex: 0, role: "log", "aria-label": t("correct.commands.output"), "aria-live": "off" });
    this.stop = button(t("correct.commands.stop"), { onclick: () => tools.api("/api/correct/stop", { json: {} }).then(() => this.watch()) });
    this.result = el("div", { "aria-live": "polite" });
    this.element = el("section", { class: "card", hidden: true },
      el("div", { class: "toolbar spread" }, el("div", { class: "toolbar" }, this.title, this.status), this.stop),
      this.steps, this.result,
      el("details", { open: true }, el("summary", { text: t("correct.commands.output") }), this.output));
  }

  async start(kind) {
    this.next = 0;
    this.output.textContent = "";
    await this.tools.api("/api/correct/start", { json: { kind } });
    await this.watch();
    this.element.scrollIntoView({ block: "nearest" });
  }

  /** Ask what the commands do, and again while they run. They run on when the page is closed. */
  async watch() {
    clearTimeout(this.timer);
    let found;
    try {
      found = await this.tools.api(`/api/correct/commands?start=${this.next}`, { quiet: true });
    } catch {
      if (!this.ended) this.timer = setTimeout(() => this.watch(), 5 * EVERY); // the server is started anew, perhaps
      return;
    }
    if (this.ended) return;
    const before = this.state;
    this.#draw(found);
    if (found.state === "running") this.timer = setTimeout(() => this.watch(), EVERY);
    else if (before === "running") await this.actions.refresh();
  }

  /** Ask no more, as the section is left. */
  end() {
    this.ended = true;
    clearTimeout(this.timer);
  }

  #draw(found) {
    const { t } = this.tools;
    this.state = found.state;
    this.element.hidden = found.state === "none";
    if (found.state === "none") return;
    this.title.textContent = t(`correct.${found.kind}`);
    this.status.textContent = t(`correct.commands.${found.state}`);
    this.status.className = `badge ${KINDS[found.state]}`;
    this.stop.hidden = found.state !== "running";
    this.steps.replaceChildren(...found.steps.map((step) => el("li", {},
      el("code", { text: step.shown }), el("span", { class: `badge ${KINDS[step.state]}`, text: t(`correct.commands.${step.state}`) }))));
    if (found.output) {
      const atEnd = this.output.scrollTop + this.output.clientHeight >= this.output.scrollHeight - 8;
      this.output.append(lastOfLines(found.output));
      this.next = found.next;
      if (atEnd) this.output.scrollTop = this.output.scrollHeight;
    }
    this.result.replaceChildren(...(found.kind === "train" && found.state === "done" && found.result ? this.#comparison(found.result) : []));
  }

  /** What `register` decided about the new version, and the comparison with the champion. */
  #comparison(result) {
    const { t, number } = this.tools;
    const promoted = result.decision.promoted;
    const key = promoted ? "champion" : result.champion ? "kept" : "none";
    const changes = Object.entries(result.decision.comparison?.changes ?? {});
    const digits = (name) => (Math.abs(changes.find(([each]) => each === name)[1].baseline) < 10 ? 3 : 1);
    const table = changes.length > 0 && el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("correct.train") }, el("table", {},
      el("thead", {}, el("tr", {}, ["metric", "before", "after", "difference"].map((name) => el("th", { scope: "col", class: name === "metric" ? "" : "number", text: t(`correct.result.${name}`) })))),
      el("tbody", {}, changes.map(([name, change]) => el("tr", {},
        el("th", { scope: "row", text: name }),
        el("td", { class: "number", text: number(change.baseline, digits(name)) }),
        el("td", { class: "number", text: number(change.candidate, digits(name)) }),
        el("td", { class: "number", text: `${number(change.difference, digits(name))} [${number(change.low, digits(name))}, ${number(change.high, digits(name))}]` }))))));
    return [
      el("p", { class: promoted ? "correct-good" : "note", text: t(`correct.result.${key}`, result) }),
      el("p", { class: "soft", text: result.decision.reason }),
      table,
    ].filter(Boolean);
  }
}

/** The text without what a progress bar has overwritten. */
function lastOfLines(text) {
  return text.split("\n").map((line) => line.replace(/\r+$/, "").split("\r").at(-1)).join("\n");
}
