// A caption on the page: its words with their certainty, the words of other candidates, and the buttons beside it.

import { ICONS, button, el } from "../dom.js";

/** Copy a text, and say so. */
export async function copy(tools, text) {
  let copied = false;
  try {
    if (navigator.clipboard) copied = await navigator.clipboard.writeText(text).then(() => true);
    else copied = copySelected(text);
  } catch {
    // the browser has refused
  }
  tools.toast(tools.t(copied ? "try.copied" : "try.copy.failed"), copied ? "good" : "bad");
}

/** Copy by the older way, which browsers allow over clear text too; returns whether it was done. */
function copySelected(text) {
  const before = document.activeElement;
  const box = el("textarea", { class: "hidden-text", value: text });
  document.body.append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  before?.focus();
  return done;
}

function percent(tools, share) {
  const value = share * 100;
  return tools.number(value, value > 99 && value < 100 ? 1 : 0);
}

/** The words of an explained caption, each of which can be pointed at; `point(place)` gets null when none is. */
function wordsOf(tools, explanation, point) {
  const paragraph = el("p", { class: "caption-text", onmouseleave: () => point(null) });
  const { text, words } = explanation;
  const buttons = [];
  let done = 0;
  words.forEach((word, place) => {
    paragraph.append(text.slice(done, word.start));
    const spelled = text.slice(word.start, word.end);
    const given = word.certainty === null;
    const sure = given ? "given" : word.certainty < 0.5 ? "half" : word.certainty < 0.9 ? "most" : "sure";
    const label = given ? tools.t("try.word.given", { word: spelled }) : tools.t("try.word", { word: spelled, percent: percent(tools, word.certainty) });
    const one = el("button", {
      type: "button", class: `word ${sure}`, text: spelled, "aria-label": label,
      onmouseenter: () => point(place), onfocus: () => point(place), onblur: () => point(null), onclick: () => point(place, true),
    });
    buttons.push(one);
    paragraph.append(one);
    done = word.end;
  });
  paragraph.append(text.slice(done));
  return { paragraph, buttons };
}

/** One model's answer for a picture. `show(explanation, place)` draws the heat map; `select(index)` asks for the
 *  explanation of another caption; `again()` repeats. Returns an element that `update(run)` draws anew. */
export function answer(tools, model, { show, select, again, heading, heatMaps }) {
  const element = el("section", { class: "answer", "aria-label": model });
  const pointed = el("p", { class: "pointed soft small", "aria-live": "off" });

  function update(run) {
    const rows = [heading];
    if (run.state === "working") {
      const note = run.opening ? tools.t("try.opening", { model }) : run.text ? null : tools.t(run.streams ? "try.reading" : "try.searching");
      rows.push(run.text ? el("p", { class: "caption-text writing", text: run.text }) : null);
      rows.push(note && el("p", { class: "working soft" }, el("span", { class: "spinner" }), el("span", { text: note })));
    } else if (run.state === "failed") {
      rows.push(el("p", { class: "problem", role: "alert", text: run.error }));
      rows.push(el("div", { class: "toolbar" }, button(tools.t("try.rerun"), { onclick: again }, ICONS.again)));
    } else if (run.state === "stopped") {
      rows.push(run.text && el("p", { class: "caption-text", text: run.text }), el("p", { class: "soft small", text: tools.t("try.stopped") }));
    } else if (run.state === "done") {
      rows.push(...finished(run));
    }
    element.replaceChildren(...rows.filter(Boolean));
    element.setAttribute("aria-busy", String(run.state === "working"));
  }

  function finished(run) {
    const caption = run.captions[run.selected];
    const explanation = caption.explanation;
    let words;
    if (explanation) {
      const made = wordsOf(tools, explanation, (place, stay) => {
        made.buttons.forEach((each, number) => each.classList.toggle("pointed-at", number === place));
        show(explanation, place, stay);
        pointed.textContent = place === null ? tools.t("try.word.hint") : describe(explanation, place);
      });
      words = made.paragraph;
      pointed.textContent = tools.t("try.word.hint");
    } else {
      words = el("p", { class: "caption-text", text: caption.text });
      pointed.textContent = "";
    }
    const score = caption.score === null ? null
      : el("span", { class: "soft small numbers", title: tools.t("try.score.help"), text: tools.t("try.score", { score: tools.number(caption.score, 3) }) });
    return [words, heatMaps && pointed, el("div", { class: "toolbar" }, button(tools.t("try.copy"), { class: "quiet", onclick: () => copy(tools, caption.text) }, ICONS.copy), score), others(run)];
  }

  function describe(explanation, place) {
    const word = explanation.words[place];
    const spelled = explanation.text.slice(word.start, word.end);
    if (word.certainty === null) return tools.t("try.word.given", { word: spelled });
    const parts = [tools.t("try.word.sure", { percent: percent(tools, word.certainty) })];
    if (word.on_picture !== null) parts.push(tools.t("try.word.looked", { percent: percent(tools, word.on_picture) }));
    return `${spelled} — ${parts.join(tools.language === "zh" ? "，" : ", ")}`;
  }

  function others(run) {
    if (run.captions.length < 2) return null;
    const items = run.captions.map((caption, index) =>
      el("li", {}, el("button", {
        type: "button", class: "candidate", "aria-pressed": String(index === run.selected), onclick: () => select(index),
        title: heatMaps ? tools.t("try.show") : null,
      }, el("span", { text: caption.text }), caption.score === null ? null : el("span", { class: "soft small numbers", text: tools.number(caption.score, 3) }))));
    return el("div", { class: "others" }, el("h3", { class: "small soft", text: tools.t("try.others") }), el("ol", {}, items));
  }

  return { element, update };
}
