// The code that does the same: a few lines of Python, or a server and curl.

import { ICONS, button, el } from "../dom.js";
import { copy } from "./caption.js";
import { settingsFor } from "./form.js";

/** A value as Python writes it; a string of JSON is one of Python too. */
function python(value) {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function different(settings, defaults) {
  return Object.fromEntries(Object.entries(settings).filter(([name, value]) => value !== null && value !== "" && value !== defaults[name]));
}

function pythonCode(model, uri, settings) {
  const several = settings.num_captions > 1;
  const shown = several ? "for caption in (best, *best.others):\n    print(caption.score, caption.text)" : "print(best.text)";
  if (!uri) {
    const values = Object.entries(settings).map(([name, value]) => `, ${name}=${python(value)}`).join("");
    return `import imagecap\n\nmodel = imagecap.load(${python(model.folder)})\nbest = model.caption(["picture.jpg"]${values})[0]\n${shown}`;
  }
  const params = Object.entries(settings).map(([name, value]) => `"${name}": ${python(value)}`).join(", ");
  return `import base64\nfrom pathlib import Path\n\nimport mlflow\nimport pandas as pd\n\nmodel = mlflow.pyfunc.load_model(${python(uri)})\npicture = base64.b64encode(Path("picture.jpg").read_bytes()).decode()\nprint(model.predict(pd.DataFrame({"image": [picture]}), params={${params}}))`;
}

function curlCode(server, uri, settings) {
  const address = server ?? "http://127.0.0.1:5001";
  const start = server ? "" : `mlflow models serve --model-uri ${shell(uri)} --env-manager local --port 5001 &\n`;
  const params = JSON.stringify(settings);
  return `${start}printf '{"inputs": ["%s"], "params": %s}' "$(base64 < picture.jpg | tr -d '\\n')" ${shell(params)} |\n  curl --data @- --header 'Content-Type: application/json' ${shell(`${address.replace(/\/$/, "")}/invocations`)}`;
}

/** The folded card with the code for the settings as they are when it is unfolded. */
export function codeCard(tools, options, model) {
  const body = el("div", { class: "fields" });
  const block = (title, text) =>
    el("div", {}, el("div", { class: "toolbar spread" }, el("h3", { text: title }), button(tools.t("try.copy"), { class: "quiet", onclick: () => copy(tools, text) }, ICONS.copy)),
      el("pre", { tabindex: "0" }, el("code", { text })));
  const details = el("details", {
    class: "card code",
    ontoggle: () => {
      if (!details.open) return;
      const chosen = model();
      const uri = tools.facts.models.find((each) => each.name === chosen?.name)?.uri ?? null;
      const all = settingsFor(chosen, options);
      // A registered version has defaults of its own, so that every value is written.
      const settings = different(all, uri || options.server ? {} : options.builtin);
      body.replaceChildren(
        el("p", { class: "soft small", text: tools.t("try.code.own") }),
        ...(options.server ? [] : [block(tools.t("try.code.python"), pythonCode(chosen, uri, settings))]),
        options.server || uri ? block(tools.t("try.code.curl"), curlCode(options.server, uri, settings)) : el("p", { class: "soft small", text: tools.t("try.code.folder") }),
      );
    },
  }, el("summary", { text: tools.t("try.code") }), body);
  return details;
}
