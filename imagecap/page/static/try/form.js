// The form: which models, which prompt, and how captions are searched.

import { el } from "../dom.js";

/** What the user has chosen; it outlives a change of the language of the page. */
export const chosen = { models: null, language: null, prompt: "", start: "", way: "greedy", beams: 5, captions: 3, samples: 3 };

function numberField(tools, key, name, limits) {
  const input = el("input", {
    type: "number", id: `try-${name}`, inputmode: "decimal", ...limits, value: String(chosen[name]),
    onchange: () => (chosen[name] = Number(input.value)),
  });
  return el("div", { class: "field" }, el("label", { for: `try-${name}`, text: tools.t(key) }), input);
}

/** The settings of a request for a model; absent ones have the defaults of the server. */
export function settingsFor(model, options) {
  const { defaults } = options;
  const prompt = chosen.language === "own" ? chosen.prompt : (model?.prompts[chosen.language] ?? null);
  const settings = {
    prompt: prompt || null,
    caption_start: chosen.start,
    max_length: chosen.max_length,
    repetition_penalty: chosen.repetition_penalty,
    no_repeat_ngram_size: chosen.no_repeat_ngram_size,
    num_beams: 1, num_captions: 1, temperature: 0,
  };
  if (chosen.way === "beams") {
    settings.num_beams = chosen.beams;
    settings.num_captions = Math.min(chosen.captions, chosen.beams);
    settings.length_penalty = chosen.length_penalty;
  } else if (chosen.way === "samples") {
    Object.assign(settings, { temperature: chosen.temperature, num_captions: chosen.samples, top_p: chosen.top_p, sample_seed: chosen.sample_seed });
  }
  for (const name of Object.keys(settings)) if (settings[name] === null && !defaults[name]) delete settings[name];
  return settings;
}

/** Whether captions come word by word. */
export function streams() {
  return chosen.way === "greedy" || (chosen.way === "samples" && chosen.samples === 1);
}

function start(options) {
  if (chosen.max_length !== undefined) return;
  const { defaults, models } = options;
  for (const name of ["max_length", "length_penalty", "repetition_penalty", "no_repeat_ngram_size", "top_p", "sample_seed"]) chosen[name] = defaults[name];
  chosen.temperature = defaults.temperature || 1;
  chosen.start = defaults.caption_start;
  if (defaults.num_beams > 1) Object.assign(chosen, { way: "beams", beams: defaults.num_beams });
  else if (defaults.temperature > 0) chosen.way = "samples";
  chosen.models = new Set(models.slice(0, 2).map((model) => model.name));
  chosen.prompt = defaults.prompt || "";
  chosen.language = chosen.prompt ? "own" : null;
}

function modelFields(tools, options, changed) {
  if (options.models.length < 2) return null;
  const aliases = Object.fromEntries(tools.facts.models.map((each) => [each.name, each.alias]));
  const checks = options.models.map((model) => {
    const input = el("input", {
      type: "checkbox", checked: chosen.models.has(model.name),
      onchange: () => {
        if (input.checked) chosen.models.add(model.name);
        else if (chosen.models.size > 1) chosen.models.delete(model.name);
        else input.checked = true; // one must remain
        changed();
      },
    });
    const alias = aliases[model.name];
    return el("label", { class: "check" }, input, el("span", { text: model.name }),
      alias && el("span", { class: alias === "champion" ? "badge" : "badge warm", text: tools.alias(alias) }));
  });
  return el("fieldset", { class: "field" }, el("legend", { class: "label", text: tools.t("try.models") }), checks);
}

function promptFields(tools, options) {
  const languages = [...new Set(options.models.flatMap((model) => Object.keys(model.prompts)))];
  const remote = options.server !== null;
  if (chosen.language === null) chosen.language = languages.includes(tools.language) ? tools.language : languages[0] || (remote ? "default" : "own");
  const names = [...languages, ...(remote ? ["default"] : []), "own"];
  const prompt = el("textarea", { id: "try-prompt", rows: "2", maxlength: "2000", value: chosen.prompt, oninput: () => (chosen.prompt = prompt.value) });
  const own = el("div", { class: "field", hidden: chosen.language !== "own" },
    el("label", { for: "try-prompt", text: tools.t("try.prompt") }), prompt, el("p", { class: "hint", text: tools.t("try.prompt.hint") }));
  const select = el("select", {
    id: "try-language",
    onchange: () => {
      chosen.language = select.value;
      own.hidden = chosen.language !== "own";
      if (!own.hidden) {
        const model = options.models.find((each) => chosen.models.has(each.name));
        prompt.value = chosen.prompt ||= model?.prompt || "";
        prompt.focus();
      }
    },
  }, names.map((name) => el("option", { value: name, text: tools.t(`try.language.${name}`) })));
  select.value = chosen.language;
  return [el("div", { class: "field" }, el("label", { for: "try-language", text: tools.t("try.language") }), select), own];
}

function searchFields(tools) {
  const details = {
    greedy: el("div"),
    beams: el("div", { class: "pair" }, numberField(tools, "try.beams", "beams", { min: 2, max: 32, step: 1 }),
      numberField(tools, "try.captions", "captions", { min: 1, max: 32, step: 1 })),
    samples: el("div", { class: "pair" }, numberField(tools, "try.samples", "samples", { min: 1, max: 32, step: 1 }),
      numberField(tools, "try.temperature", "temperature", { min: 0.05, max: 5, step: "any" }),
      numberField(tools, "try.top_p", "top_p", { min: 0.01, max: 1, step: "any" }),
      numberField(tools, "try.seed", "sample_seed", { step: 1 })),
  };
  const buttons = Object.keys(details).map((way) =>
    el("button", { type: "button", text: tools.t(`try.way.${way}`), onclick: () => choose(way) }));
  function choose(way) {
    chosen.way = way;
    Object.keys(details).forEach((name, place) => {
      details[name].hidden = name !== way;
      buttons[place].setAttribute("aria-pressed", String(name === way));
    });
  }
  choose(chosen.way);
  return [
    el("div", { class: "field", role: "group", "aria-labelledby": "try-way" },
      el("span", { class: "label", id: "try-way", text: tools.t("try.way") }), el("div", { class: "segments wide" }, buttons)),
    Object.values(details),
  ];
}

/** The card with the form. `changed` is called when other models are chosen. */
export function form(tools, options, changed, run) {
  start(options);
  const begin = el("input", { type: "text", id: "try-start", maxlength: "2000", value: chosen.start, oninput: () => (chosen.start = begin.value) });
  return el("form", { class: "card fields", "aria-label": tools.t("try.settings"), onsubmit: (event) => (event.preventDefault(), run()) },
    el("h2", { text: tools.t("try.settings") }),
    modelFields(tools, options, changed),
    promptFields(tools, options),
    searchFields(tools),
    el("details", {}, el("summary", { text: tools.t("try.more") }),
      el("div", { class: "fields" },
        el("div", { class: "field" }, el("label", { for: "try-start", text: tools.t("try.start") }), begin, el("p", { class: "hint", text: tools.t("try.start.hint") })),
        el("div", { class: "pair" },
          numberField(tools, "try.max_length", "max_length", { min: 1, max: 1024, step: 1 }),
          numberField(tools, "try.length_penalty", "length_penalty", { min: -1, max: 5, step: "any" }),
          numberField(tools, "try.repetition_penalty", "repetition_penalty", { min: 0.01, max: 100, step: "any" }),
          numberField(tools, "try.no_repeat_ngram_size", "no_repeat_ngram_size", { min: 0, max: 1000, step: 1 })))));
}
