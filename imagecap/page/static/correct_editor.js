// The row that is shown: its picture, its caption, and what can be decided about it.

import { button, el } from "./dom.js";

const KINDS = { accepted: "good", edited: "good", skipped: "warm", unusable: "bad", open: "" };
const KEYS_SETTING = "imagecap.correct.keys";

export class Editor {
  /** `actions`: `decided(item, focusCaption)`, `goTo(row)`, `step(by, focusCaption)` and `undo()` of the section. */
  constructor(queue, tools, actions) {
    const { t } = tools;
    Object.assign(this, { queue, tools, actions, t, busy: false });
    this.picture = el("img", { class: "correct-picture", alt: "", onerror: () => this.#pictureFailed(true), onload: () => this.#pictureFailed(false) });
    this.broken = el("p", { class: "note", text: t("correct.picture.broken"), hidden: true });
    this.name = el("bdi", { class: "soft small" });
    this.badges = el("span", { class: "toolbar correct-badges" });
    this.caption = el("textarea", {
      id: "correct-caption", rows: 3, dir: "auto", maxlength: 10000, placeholder: t("correct.caption.placeholder"), spellcheck: "true",
      oninput: () => this.#typed(), onkeydown: (event) => this.#captionKey(event), "aria-describedby": "correct-facts",
    });
    this.save = button(t("correct.accept"), { class: "main", onclick: () => this.accept() });
    this.skip = button(t("correct.skip"), { onclick: () => this.decide("skip") });
    this.unusable = button(t("correct.unusable"), { class: "danger", onclick: () => this.decide("unusable") });
    this.reopen = button(t("correct.reopen"), { onclick: () => this.decide("reopen") });
    const undo = button(t("correct.undo"), { class: "quiet", onclick: () => actions.undo() });
    const previous = button(t("correct.previous"), { class: "quiet", onclick: () => actions.step(-1) });
    const next = button(t("correct.next"), { class: "quiet", onclick: () => actions.step(1) });
    this.others = el("div", { class: "correct-others" });
    this.keysSwitch = el("input", {
      type: "checkbox", id: "correct-keys", checked: this.keysAreOn,
      onchange: (event) => localStorage.setItem(KEYS_SETTING, event.target.checked ? "on" : "off"),
    });
    this.element = el("div", { class: "card correct-editor" },
      el("div", { class: "correct-frame" }, this.picture, this.broken),
      el("div", { class: "correct-facts", id: "correct-facts" }, this.name, this.badges),
      el("div", { class: "field" }, el("label", { for: "correct-caption", text: t("correct.caption") }), this.caption),
      el("div", { class: "toolbar" }, this.save, this.skip, this.unusable, this.reopen),
      el("div", { class: "toolbar spread correct-steps" }, el("span", { class: "toolbar" }, previous, next), undo),
      this.others,
      this.#help());
    this.keys = {
      j: () => actions.step(1), ArrowDown: () => actions.step(1), ArrowRight: () => actions.step(1),
      k: () => actions.step(-1), ArrowUp: () => actions.step(-1), ArrowLeft: () => actions.step(-1),
      a: () => this.accept(), e: () => this.focusCaption(), s: () => this.decide("skip"),
      x: () => this.decide("unusable"), z: () => actions.undo(), r: () => this.decide("reopen"),
    };
  }

  /** Whether single keys decide; they can be switched off, since speech and touch input may trigger them. */
  get keysAreOn() {
    return localStorage.getItem(KEYS_SETTING) !== "off";
  }

  get item() {
    return this.queue.shown.item;
  }

  /** Show a row: `{item, same, alike}`. */
  draw({ item, same, alike }, focusCaption) {
    const { t } = this;
    const source = `/api/correct/picture/${item.row}?side=640`;
    if (this.picture.getAttribute("src") !== source) this.picture.src = source;
    this.picture.alt = t("correct.picture", { name: item.image });
    this.name.textContent = item.image;
    this.caption.value = this.queue.drafts.get(item.row) ?? item.caption;
    this.caption.lang = { en: "en", zh: "zh-CN" }[item.language] || "";
    this.#drawFacts(item);
    this.#typed();
    this.others.replaceChildren(...this.#group(t("correct.same"), same, false), ...this.#group(t("correct.alike"), alike, true));
    if (focusCaption) this.focusCaption();
  }

  #drawFacts(item) {
    const { t } = this;
    const percent = (value) => this.tools.number(100 * value);
    const badge = (text, kind = "") => el("span", { class: `badge ${kind}`, text });
    const when = item.at ? new Date(item.at).toLocaleString(this.tools.language === "zh" ? "zh-CN" : "en-GB", { dateStyle: "medium", timeStyle: "short" }) : "";
    this.badges.replaceChildren(...[
      item.state !== "open" && badge(t(`correct.state.${item.state}`), KINDS[item.state]),
      item.language && badge(t(`correct.language.${item.language}`)),
      item.certainty !== null && badge(t("correct.certainty", { percent: percent(item.certainty) }), item.certainty < 0.5 ? "warm" : ""),
      item.doubt !== null && item.doubt > 0.3 && badge(t("correct.doubt", { percent: percent(item.doubt) }), "warm"),
      item.who && el("span", { class: "soft small" }, el("bdi", { text: t("correct.changed.by", { who: item.who, when }) })),
    ].filter(Boolean));
    this.reopen.hidden = item.state === "open";
  }

  #group(title, items, pictures) {
    if (!items.length) return [];
    const entry = (item) => el("li", {},
      el("button", { type: "button", class: "correct-row", onclick: () => this.actions.goTo(item.row) },
        pictures && el("img", { src: `/api/correct/picture/${item.row}?side=160`, alt: "", loading: "lazy", width: 56, height: 56 }),
        el("span", { class: "correct-row-text" },
          el("span", { dir: "auto", class: item.caption ? "" : "soft", text: item.caption || this.t("correct.no.caption") }),
          pictures && el("bdi", { class: "soft small", text: item.image }))));
    return [el("h3", { text: title }), el("ul", { class: "correct-list" }, items.map(entry))];
  }

  #help() {
    const { t } = this;
    const keys = [
      ["J", "K", t("correct.keys.next")], ["A", t("correct.accept")], ["E", t("correct.keys.edit")], ["S", t("correct.skip")],
      ["X", t("correct.unusable")], ["R", t("correct.reopen")], ["Z", t("correct.undo")],
      ["Enter", t("correct.keys.save")], ["Esc", t("correct.keys.leave")],
    ];
    return el("details", { class: "correct-keys" }, el("summary", { text: t("correct.keys") }),
      el("label", { class: "check" }, this.keysSwitch, t("correct.keys.on")),
      el("ul", {}, keys.map((each) => el("li", {}, ...each.slice(0, -1).map((key) => el("kbd", { text: key })), el("span", { text: each.at(-1) })))));
  }

  #pictureFailed(failed) {
    this.picture.hidden = failed;
    this.broken.hidden = !failed;
  }

  get #changed() {
    return this.caption.value.trim() !== this.item.caption;
  }

  #typed() {
    if (this.#changed) this.queue.drafts.set(this.item.row, this.caption.value);
    else this.queue.drafts.delete(this.item.row);
    this.save.querySelector("span").textContent = this.t(this.#changed ? "correct.save" : "correct.accept");
  }

  #captionKey(event) {
    if (event.isComposing) return; // Enter ends the input of a Chinese word
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.accept(true);
    } else if (event.key === "Escape") {
      this.caption.value = this.item.caption;
      this.#typed();
      this.caption.blur();
    }
  }

  focusCaption() {
    this.caption.focus();
    this.caption.setSelectionRange(this.caption.value.length, this.caption.value.length);
  }

  /** Save the caption if it was changed, else accept it. */
  accept(focusCaption = false) {
    return this.decide(this.#changed ? "edit" : "accept", focusCaption);
  }

  async decide(action, focusCaption = false) {
    if (this.busy) return; // a key that is held down
    const item = this.item;
    const caption = this.caption.value;
    this.busy = true;
    try {
      await this.actions.decided(await this.queue.change(item, action, caption), focusCaption);
    } catch (error) {
      if (!(error instanceof this.tools.Refused)) throw error;
      if (error.status === 409) await this.#conflict(item, action, caption, focusCaption);
      else this.tools.toast(error.message, "bad");
    } finally {
      this.busy = false;
    }
  }

  /** Somebody else has changed the caption: show both texts, and let the person choose. */
  async #conflict(item, action, caption, focusCaption) {
    const { t } = this;
    const theirs = (await this.tools.api(`/api/correct/item/${item.row}`)).item;
    const text = (title, content, state) => el("div", {}, el("h3", { text: title }),
      el("blockquote", { dir: "auto", text: content || t("correct.no.caption") }),
      el("p", { class: "soft small", text: t("correct.conflict.decision", { state: t(`correct.state.${state}`) }) }));
    const own = { accept: "accepted", edit: "edited", skip: "skipped", unusable: "unusable", reopen: "open" }[action];
    const body = el("div", { class: "correct-conflict" },
      el("p", { text: t("correct.conflict.text", { who: theirs.who || t("correct.somebody") }) }),
      text(t("correct.conflict.theirs"), theirs.caption, theirs.state),
      text(t("correct.conflict.mine"), action === "edit" ? caption : item.caption, own));
    const chosen = await this.tools.dialog(t("correct.conflict"), body, [
      { text: t("shell.cancel"), value: null, kind: "quiet" },
      { text: t("correct.conflict.keep.theirs"), value: "theirs" },
      { text: t("correct.conflict.keep.mine"), value: "mine", kind: "main" },
    ]);
    if (chosen === "theirs") {
      this.queue.drafts.delete(item.row);
      await this.actions.goTo(item.row, focusCaption);
    } else if (chosen === "mine") {
      const done = await this.queue.change(theirs, action === "accept" ? "edit" : action, action === "edit" ? caption : item.caption);
      await this.actions.decided(done, focusCaption);
    }
  }
}
