// Captions as files.

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** A row per picture and model. */
function rows(items) {
  return items.toReversed().flatMap((item) =>
    Object.entries(item.runs).filter(([, run]) => run.state === "done").map(([model, run]) => ({
      image: item.name, model, caption: run.captions[0].text, score: run.captions[0].score,
      others: run.captions.slice(1).map(({ text, score }) => ({ caption: text, score })),
      settings: run.settings,
      words: run.captions[0].explanation?.words.map(({ start, end, certainty }) => ({ word: run.captions[0].text.slice(start, end), certainty })) ?? null,
    })));
}

export function saveJson(items) {
  save("captions.json", "application/json", `${JSON.stringify(rows(items), null, 2)}\n`);
}

export function saveCsv(items) {
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const lines = [["image", "model", "rank", "caption", "score"]];
  for (const row of rows(items)) {
    [{ caption: row.caption, score: row.score }, ...row.others].forEach((each, rank) => lines.push([row.image, row.model, rank + 1, each.caption, each.score]));
  }
  save("captions.csv", "text/csv", `\ufeff${lines.map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`);
}
