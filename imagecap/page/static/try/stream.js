// Requests of the section: pictures up, captions down line by line.

/** Read an answer with one JSON object per line. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    rest += value;
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

/** Send a picture; returns its name on the server and its size. */
export async function upload(tools, file, signal) {
  const response = await tools.request("/api/try/pictures", { method: "POST", body: file, signal, headers: { "content-type": "application/octet-stream" } });
  return response.json();
}

/** Caption a picture; `update(changes)` gets what is new: `opening`, `text`, and at last `captions`. */
export async function caption(tools, picture, model, settings, signal, update) {
  const response = await tools.request("/api/try/captions", { json: { picture, model, settings }, signal });
  for await (const event of lines(response)) {
    if (event.error) throw new tools.Refused(event.error, 400);
    if (event.opening) update({ opening: true });
    else if (event.captions) return update({ captions: event.captions, opening: false });
    else update({ text: event.text, opening: false });
  }
  throw new tools.Refused(tools.t("shell.offline"), 0);
}

/** Ask how sure the model was of each word, and where it looked. */
export async function explain(tools, picture, model, settings, tokens, signal) {
  const response = await tools.request("/api/try/explanation", { json: { picture, model, settings, tokens }, signal });
  return response.json();
}
