// The requests of the section Correct, and what the page knows of the queue.

const FILTERS = ["state", "language", "word", "shortest", "longest", "least", "most"];
const PAGE = 30;

/** A text that no other request has. `crypto.randomUUID` is missing where the page is not served from loopback. */
function newToken() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The queue as this browser sees it: a page of rows, the row that is shown, and texts that are not saved yet. */
export class Queue {
  constructor(tools) {
    this.tools = tools;
    this.filter = {};
    this.order = "file";
    this.after = null;
    this.before = null;
    this.items = [];
    this.total = 0;
    this.position = 0;
    this.version = 0;
    this.shown = null; // {item, same, alike}
    this.drafts = new Map(); // by row
    this.tokens = new Map(); // of requests whose answers have not come
  }

  get who() {
    let name = localStorage.getItem("imagecap.correct.who");
    if (!name) {
      name = `anonymous-${newToken().slice(0, 4)}`; // two people without names must not undo each other's changes
      localStorage.setItem("imagecap.correct.who", name);
    }
    return name;
  }

  set who(name) {
    localStorage.setItem("imagecap.correct.who", name);
  }

  /** Read filter, order and page from the address; `fallback` where it has none. */
  readAddress(fallback) {
    const text = location.hash.split("/").slice(1).join("/");
    const values = new URLSearchParams(text || fallback);
    this.filter = Object.fromEntries(FILTERS.map((name) => [name, values.get(name) || ""]));
    this.order = values.get("order") || "file";
    this.after = values.get("after");
    this.before = values.get("before");
  }

  writeAddress() {
    history.replaceState(null, "", `#correct/${this.#query()}`);
  }

  #query() {
    const values = new URLSearchParams();
    for (const name of FILTERS) if (this.filter[name]) values.set(name, this.filter[name]);
    values.set("order", this.order);
    if (this.after !== null) values.set("after", this.after);
    else if (this.before !== null) values.set("before", this.before);
    return values.toString();
  }

  /** Load the page that `after`, `before` or neither names. */
  async load() {
    const found = await this.tools.api(`/api/correct/items?limit=${PAGE}&${this.#query()}`);
    Object.assign(this, { items: found.items, total: found.total, position: found.position, version: found.version });
    this.writeAddress();
  }

  get hasNextPage() {
    return this.position + this.items.length < this.total;
  }

  async nextPage() {
    if (this.items.length) [this.after, this.before] = [this.items.at(-1).row, null];
    await this.load();
  }

  async previousPage() {
    if (this.items.length) [this.after, this.before] = [null, this.items[0].row];
    await this.load();
    if (this.position === 0) {
      this.before = null;
      this.writeAddress();
    }
  }

  async firstPage() {
    this.after = this.before = null;
    await this.load();
  }

  async show(row) {
    this.shown = await this.tools.api(`/api/correct/item/${row}`);
    this.put(this.shown.item);
    return this.shown;
  }

  /** Take over a row as the server has it now. */
  put(item) {
    const place = this.items.findIndex((each) => each.row === item.row);
    if (place >= 0) this.items[place] = item;
    if (this.shown?.item.row === item.row) this.shown.item = item;
  }

  /** Decide about a row. A request that is sent again, since no answer came, has the same token. */
  async change(item, action, caption) {
    const wanted = { row: item.row, revision: item.revision, action, caption };
    const key = JSON.stringify(wanted);
    const token = this.tokens.get(key) ?? newToken();
    this.tokens.set(key, token);
    const done = await this.tools.api("/api/correct/change", { quiet: true, json: { ...wanted, who: this.who, token } });
    this.tokens.delete(key);
    this.drafts.delete(item.row);
    this.put(done.item);
    return done.item;
  }

  async undo(number = null) {
    const done = await this.tools.api("/api/correct/undo", { json: { who: this.who, token: newToken(), number } });
    this.drafts.delete(done.item.row);
    this.put(done.item);
    return done;
  }

  preview(replacement) {
    return this.tools.api("/api/correct/replace", { json: { ...replacement, filter: this.filter } });
  }

  replace(replacement, version) {
    const json = { ...replacement, filter: this.filter, apply: true, version, who: this.who, token: newToken() };
    return this.tools.api("/api/correct/replace", { json });
  }
}
