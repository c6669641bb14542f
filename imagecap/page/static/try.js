// The section "Try": pictures in, captions out, with what the model was sure of and where it looked.

import { ICONS, button, el } from "./dom.js";
import { answer } from "./try/caption.js";
import { takePicture } from "./try/camera.js";
import { codeCard } from "./try/code.js";
import { chosen, form, settingsFor, streams } from "./try/form.js";
import { drawHeat, heatOf } from "./try/heat.js";
import { saveCsv, saveJson } from "./try/save.js";
import { caption, explain, upload } from "./try/stream.js";

const AT_ONCE = 3; // pictures that are captioned at the same time
const items = []; // pictures with their answers; they outlive a change of the language of the page
let compare = false;

export async function mount(element, tools) {
  const options = await tools.api("/api/try/options");
  const { t } = tools;
  const megabytes = Math.floor(options.most_bytes / 1e6);
  const remote = options.server !== null;
  const models = () => (remote ? [{ name: options.server, prompts: {} }] : options.models.filter((model) => chosen.models.has(model.name)));
  const alias = (name) => tools.facts.models.find((each) => each.name === name)?.alias;

  const input = el("input", { type: "file", accept: "image/*", multiple: true, class: "hidden-text", tabindex: "-1", "aria-hidden": "true", id: "try-files", onchange: () => (add([...input.files]), (input.value = "")) });
  const camera = navigator.mediaDevices?.getUserMedia
    ? button(t("try.camera"), { onclick: async () => { const file = await takePicture(tools); if (file) add([file]); } }, ICONS.camera) : null;
  const drop = el("div", { class: "drop" },
    el("p", { class: "drop-title", text: t("try.drop") }),
    el("div", { class: "toolbar centre" }, button(t("try.choose"), { class: "main", onclick: () => input.click() }, ICONS.picture), camera),
    el("p", { class: "hint", text: t("try.drop.hint", { megabytes }) }), input);
  const settingsCard = form(tools, options, () => items.forEach(draw), rerun);
  const runButton = el("button", { type: "submit", class: "main wide", text: t("try.rerun") });
  settingsCard.append(runButton);
  const list = el("div", { class: "results" });
  const empty = el("p", { class: "soft small", text: remote ? t("try.empty.remote", { server: options.server }) : t("try.empty") });
  const count = el("span", { class: "soft numbers" });
  const compareBox = el("input", { type: "checkbox", checked: compare, onchange: () => { compare = compareBox.checked; items.forEach((item) => item.redrawHeat?.()); } });
  const bar = el("div", { class: "card result-bar" },
    el("div", { class: "toolbar" }, count,
      el("button", { type: "button", class: "quiet", text: t("try.clear"), onclick: () => { for (const item of [...items]) remove(item); } })),
    !remote && el("div", { class: "toolbar legend" },
      el("span", { class: "soft small" }, t("try.legend"), " ", el("span", { class: "sample half", text: t("try.legend.half") }), " ", el("span", { class: "sample most", text: t("try.legend.most") })),
      el("label", { class: "check small", title: t("try.heat.compare.hint") }, compareBox, t("try.heat.compare"))),
    el("div", { class: "toolbar" }, el("span", { class: "soft small", text: t("try.save") }),
      button(t("try.save.json"), { onclick: () => saveJson(items) }, ICONS.download),
      button(t("try.save.csv"), { onclick: () => saveCsv(items) }, ICONS.download)));

  element.append(
    el("h1", { text: t("try.title") }), el("p", { class: "lead", text: t(remote ? "try.lead.remote" : "try.lead") }),
    el("div", { class: "try-columns" }, el("div", { class: "try-side" }, settingsCard, codeCard(tools, options, () => models()[0])), el("div", { class: "try-main" }, drop, empty, bar, list)),
  );

  function refresh() {
    empty.hidden = items.length > 0;
    bar.hidden = runButton.hidden = items.length === 0;
    drop.classList.toggle("small-drop", items.length > 0);
    count.textContent = t("try.count", { count: tools.number(items.length) });
  }

  function add(files) {
    for (const file of files) {
      if (file.type && !file.type.startsWith("image/")) tools.toast(t("try.notpicture", { name: file.name }), "bad");
      else if (file.size > options.most_bytes) tools.toast(t("try.toolarge", { name: file.name, megabytes }), "bad");
      else {
        const item = { file, name: file.name || "picture", url: URL.createObjectURL(file), picture: null, runs: {}, stop: null, waiting: true };
        items.unshift(item);
        list.prepend(card(item));
      }
    }
    refresh();
    work();
  }

  function remove(item) {
    item.stop?.abort();
    URL.revokeObjectURL(item.url);
    items.splice(items.indexOf(item), 1);
    item.card.remove();
    refresh();
  }

  function rerun() {
    for (const item of items) {
      item.stop?.abort();
      item.waiting = true;
    }
    work();
  }

  function work() {
    while (items.filter((item) => item.stop).length < AT_ONCE) {
      const next = items.findLast((item) => item.waiting && !item.stop);
      if (!next) return;
      run(next).finally(work);
    }
  }

  async function run(item) {
    const stop = new AbortController();
    Object.assign(item, { waiting: false, stop, runs: {} });
    const wanted = models();
    for (const model of wanted) item.runs[model.name] = { state: "working", streams: streams() && !remote, text: "", settings: settingsFor(model, options) };
    draw(item);
    try {
      item.picture ??= await upload(tools, item.file, stop.signal);
    } catch (error) {
      for (const model of wanted) fail(item, model.name, error);
      if (item.stop === stop) item.stop = null;
      return;
    }
    await Promise.all(wanted.map((model) => ask(item, model.name, stop.signal)));
    if (item.stop === stop) item.stop = null;
    item.drawStop?.();
  }

  async function ask(item, name, signal) {
    const current = item.runs[name];
    const change = (changes) => {
      Object.assign(current, changes);
      if (item.runs[name] === current) item.answers?.[name]?.update(current);
    };
    try {
      await caption(tools, item.picture.picture, remote ? "" : name, current.settings, signal, change);
      change({ state: "done", selected: 0 });
      tools.announce(t("try.done", { name: item.name, text: current.captions[0].text }));
      await explained(item, name, 0, signal);
    } catch (error) {
      fail(item, name, error, current);
    }
  }

  function fail(item, name, error, current = item.runs[name]) {
    if (error.name === "AbortError") Object.assign(current, { state: current.captions ? "done" : "stopped" });
    else if (current.captions) tools.toast(error.message, "bad");
    else Object.assign(current, { state: "failed", error: error.message });
    if (error instanceof tools.Refused && error.message && item.picture && !current.captions && error.status === 400) item.picture = null; // perhaps the server was started again
    if (item.runs[name] === current) item.answers?.[name]?.update(current);
    if (!(error instanceof tools.Refused) && error.name !== "AbortError") throw error;
  }

  async function explained(item, name, index, signal) {
    if (remote) return;
    const current = item.runs[name];
    const wanted = current.captions[index];
    wanted.explanation ??= await explain(tools, item.picture.picture, name, current.settings, wanted.tokens, signal);
    if (item.runs[name] === current && current.selected === index) item.answers?.[name]?.update(current);
  }

  async function select(item, name, index) {
    const current = item.runs[name];
    current.selected = index;
    item.answers[name].update(current);
    item.hideHeat();
    try {
      await explained(item, name, index);
    } catch (error) {
      fail(item, name, error);
    }
    item.answers[name].element.querySelectorAll(".candidate")[index]?.focus();
  }

  function draw(item) {
    const old = item.card;
    if (old?.isConnected) old.replaceWith(card(item));
  }

  function card(item) {
    const canvas = el("canvas", { class: "heat", hidden: true, role: "img" });
    const image = el("img", { src: item.url, alt: t("try.alt", { name: item.name }), onerror: () => image.classList.add("unseen"), onload: () => {
      const ratio = image.naturalWidth / image.naturalHeight;
      frame.style.aspectRatio = String(ratio);
      frame.style.maxWidth = `${Math.round(460 * Math.min(ratio, 3))}px`;
    } });
    const frame = el("div", { class: "picture" }, image, canvas);
    let shown = null;
    item.hideHeat = () => ((canvas.hidden = true), (shown = null));
    const show = (explanation, place) => {
      shown = place === null ? null : [explanation, place];
      const heat = place === null || !explanation.region ? null : heatOf(explanation.words, place, compare);
      canvas.hidden = heat === null;
      if (heat === null) return;
      const word = explanation.words[place];
      canvas.setAttribute("aria-label", t("try.heat.alt", { word: explanation.text.slice(word.start, word.end) }));
      drawHeat(canvas, heat, explanation.rows, explanation.columns, explanation.region);
    };
    item.redrawHeat = () => shown && show(...shown);
    const names = Object.keys(item.runs).length ? Object.keys(item.runs) : models().map((model) => model.name);
    item.answers = Object.fromEntries(names.map((name) => {
      const kind = alias(name);
      const heading = names.length > 1 || kind
        ? el("h3", { class: "answer-title" }, el("span", { text: name }), kind && el("span", { class: kind === "champion" ? "badge" : "badge warm", text: tools.alias(kind) })) : null;
      const one = answer(tools, name, { show, heading, heatMaps: !remote, select: (index) => select(item, name, index), again: () => { item.waiting = true; work(); } });
      if (item.runs[name]) one.update(item.runs[name]);
      return [name, one];
    }));
    const stopButton = button(t("try.stop"), { class: "quiet", onclick: () => item.stop?.abort() }, ICONS.stop);
    item.drawStop = () => (stopButton.hidden = !item.stop);
    item.drawStop();
    item.card = el("article", { class: names.length > 1 ? "card result several" : "card result", "aria-label": item.name },
      frame,
      el("div", { class: "answers" },
        el("div", { class: "toolbar spread result-head" }, el("span", { class: "name soft small", text: item.name, dir: "auto" }),
          el("div", { class: "toolbar" }, stopButton,
            button("", { class: "quiet icon-button", "aria-label": t("try.remove", { name: item.name }), onclick: () => remove(item) }, ICONS.close))),
        el("div", { class: names.length > 1 ? "beside" : "" }, Object.values(item.answers).map((each) => each.element))));
    return item.card;
  }

  list.append(...items.map(card));
  refresh();

  const pasted = (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) {
      event.preventDefault();
      add(files);
    }
  };
  let inside = 0;
  const has = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const entered = (event) => has(event) && (event.preventDefault(), (inside += 1), drop.classList.add("over"));
  const left = (event) => has(event) && ((inside -= 1), inside <= 0 && drop.classList.remove("over"));
  const over = (event) => has(event) && event.preventDefault();
  const dropped = (event) => {
    if (!has(event)) return;
    event.preventDefault();
    inside = 0;
    drop.classList.remove("over");
    add([...event.dataTransfer.files]);
  };
  const listeners = { paste: pasted, dragenter: entered, dragleave: left, dragover: over, drop: dropped };
  for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
  return () => {
    for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener);
  };
}
