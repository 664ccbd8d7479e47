// What is to be sent waits in IndexedDB, in order, until the server has answered: a lost connection loses nothing.
//
// Every entry carries an id made here, so that sending it twice counts once. One tab sends at a time (Web Locks);
// where a browser has none, two tabs may send the same entry, and the server counts it once all the same.

const FINAL = new Set([400, 409, 410, 413, 415, 422]); // refused as it is: sending it again changes nothing
const LONGEST_PAUSE = 48_000; // ms; with the share of chance, a minute
const PATIENCE = 20_000; // ms for one answer

/** Whether a status says that the site is not to be had at the moment: not this entry's fault, wait with all. */
function unavailable(status) {
  return status === 0 || status === 408 || status === 429 || status >= 500;
}

/** Return an id that no other client makes; crypto.randomUUID needs https, this does not. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Two lists, `waiting` and `refused`, and one `draft`, kept on this device; in memory only where it lets us not. */
export class Storage {
  static async open(name) {
    try {
      return new Storage(await opened(name));
    } catch {
      return new Storage(null);
    }
  }

  constructor(database) {
    this.database = database;
    this.memory = { waiting: new Map(), refused: new Map(), draft: new Map() };
    this.last = 0;
  }

  get lasting() {
    return this.database !== null;
  }

  /** Add entries to `waiting` and set the draft, both or neither. */
  async write(entries, draft) {
    // Times grow, and two within the same millisecond keep their order: entries go out as they came in.
    for (const entry of entries) entry.n = this.last = Math.max(Date.now(), this.last + 0.001);
    await this.#change(["waiting", "draft"], (store) => {
      for (const entry of entries) store("waiting").put(entry, entry.uuid + entry.kind);
      if (draft !== undefined) store("draft").put(draft, "draft");
    });
  }

  async remove(list, entry) {
    await this.#change([list], (store) => store(list).delete(entry.uuid + entry.kind));
  }

  /** Move an entry from `waiting` to `refused`, with the reason. */
  async refuse(entry, reason) {
    await this.#change(["waiting", "refused"], (store) => {
      store("waiting").delete(entry.uuid + entry.kind);
      store("refused").put({ ...entry, reason }, entry.uuid + entry.kind);
    });
  }

  async all(list) {
    const entries = this.database
      ? await asked(this.database.transaction(list).objectStore(list).getAll())
      : [...this.memory[list].values()];
    return entries.sort((one, other) => one.n - other.n);
  }

  async draft() {
    if (!this.database) return this.memory.draft.get("draft");
    return asked(this.database.transaction("draft").objectStore("draft").get("draft"));
  }

  #change(lists, work) {
    if (!this.database) {
      work((list) => ({ put: (value, key) => this.memory[list].set(key, value), delete: (key) => this.memory[list].delete(key) }));
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      // Strict: on the disk, not only on its way there, before it counts as kept.
      const change = this.database.transaction(lists, "readwrite", { durability: "strict" });
      change.oncomplete = () => resolve();
      change.onerror = change.onabort = () => reject(change.error);
      work((list) => change.objectStore(list));
    });
  }
}

function opened(name) {
  const opening = indexedDB.open(name, 1);
  opening.onupgradeneeded = () => {
    for (const list of ["waiting", "refused", "draft"]) opening.result.createObjectStore(list);
  };
  return asked(opening);
}

function asked(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error);
  });
}

/** Sends what waits. `onChange({waiting, refused, trouble})` after every change; `onReply(entry, reply)` when taken. */
export class Outbox {
  constructor(storage, name, base, { onChange, onReply }) {
    Object.assign(this, { storage, name, base, onChange, onReply });
    this.pause = 1000;
    this.trouble = null;
    this.others = "BroadcastChannel" in globalThis ? new BroadcastChannel(name) : null;
    if (this.others) this.others.onmessage = () => this.tell();
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.send());
  }

  /** Keep entries and the draft, then send. Resolves once they are kept; sending goes on behind. */
  async add(entries, draft) {
    await this.storage.write(entries, draft);
    if (!entries.length) return;
    await this.changed();
    // While there is trouble, a try is due after the pause anyway: more work must not make more tries.
    if (this.trouble === null || !(this.sending || this.timer)) this.hurry();
  }

  /** Try now, whatever the pause was. */
  hurry() {
    this.pause = 1000;
    return this.send();
  }

  /** Send what waits, in order; once at a time. */
  async send() {
    clearTimeout(this.timer);
    this.timer = null;
    this.again = true;
    if (this.sending) return;
    this.sending = true;
    let left = [];
    try {
      while (this.again) {
        this.again = false;
        await this.#alone(() => this.#pass());
        left = await this.storage.all("waiting");
      }
    } finally {
      this.sending = false;
    }
    if (left.length) this.#later();
  }

  #alone(work) {
    return navigator.locks ? navigator.locks.request(`${this.name}:sending`, work) : work();
  }

  async #pass() {
    const held = new Set(); // tickets with an entry that must go first
    for (const entry of await this.storage.all("waiting")) {
      if (held.has(entry.ticket)) continue;
      const { status, reply, wait } = await this.#post(entry);
      this.trouble = status >= 200 && status < 300 ? null : status;
      if (this.trouble === null) {
        await this.storage.remove("waiting", entry);
        this.pause = 1000;
        this.onReply(entry, reply);
      } else if (status === 404 && entry.kind === "undo") {
        await this.storage.remove("waiting", entry); // it was refused, so there is nothing to take back
        this.trouble = null;
      } else if (FINAL.has(status) || (status === 404 && entry.kind !== "classification")) {
        await this.storage.refuse(entry, reply?.detail ?? String(status));
        this.trouble = null;
      } else {
        held.add(entry.ticket);
        if (wait) this.pause = wait;
        if (unavailable(status)) {
          this.again = false;
          return this.changed();
        }
      }
      await this.changed();
    }
    await this.changed();
  }

  async #post({ method, path, body, ticket }) {
    const headers = { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) };
    if (ticket && !body) headers["X-Ticket"] = ticket;
    try {
      const answer = await fetch(this.base + path, {
        method,
        headers,
        body: body && JSON.stringify(body),
        credentials: "same-origin",
        keepalive: true, // goes on when the page is left
        signal: AbortSignal.timeout(PATIENCE),
      });
      const wait = Number(answer.headers.get("Retry-After")) * 1000 || 0;
      return { status: answer.status, reply: await answer.json().catch(() => null), wait };
    } catch {
      return { status: 0, reply: null, wait: 0 };
    }
  }

  #later() {
    // A share of chance, so that a room full of devices does not come back in the same second.
    this.timer = setTimeout(() => this.send(), this.pause * (0.75 + Math.random() / 2));
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
  }

  async changed() {
    this.others?.postMessage("changed");
    await this.tell();
  }

  async tell() {
    const [waiting, refused] = await Promise.all([this.storage.all("waiting"), this.storage.all("refused")]);
    this.onChange({ waiting, refused, trouble: this.trouble });
  }

  async dismiss(entry) {
    await this.storage.remove("refused", entry);
    await this.changed();
  }
}
