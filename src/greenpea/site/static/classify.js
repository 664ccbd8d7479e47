// The classify page: hands a volunteer one subject after another, and never makes them wait.
//
// walk.js knows the tree, viewer.js the image, outbox.js what is still to be sent; this file joins them to the page.
// The next subjects and their images are fetched ahead; a finished classification goes into the outbox, and the next
// subject stands there at once. What is under way is kept on the device, and taken up again when the page is reloaded.

import { Outbox, Storage, uuid } from "./outbox.js";
import { Viewer } from "./viewer.js";
import * as walks from "./walk.js";

const AHEAD = 3; // subjects ready behind the one shown
const RECENT = 60_000; // ms within which feedback is still of interest
const ENOUGH_TO_KEEP = 10; // classifications after which an account is offered
const GUARD = 350; // ms in which a key meant for the page before does not close what has just opened
const KEEPER_WAIT = 700; // ms in which a page that was left lets go of what was under way

const config = JSON.parse(document.getElementById("config").textContent);
const { tree, base } = config;
const name = `greenpea:${base}`;
const $ = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function t(words, places = {}) {
  return config.words[words].replace(/\{(\w+)\}/g, (_, key) => places[key]);
}

// ---- what is going on ----

const state = { current: null, queue: [], last: null, chosen: new Set(), count: 0, saving: 0, refused: [] };
const sent = new Map(); // uuid → what was finished here, until the answer to it has come
const seen = new Set(); // subjects handed out to this page
const images = new Map(); // address → Image, kept so that the browser does not drop it again
let storage;
let outbox;
let keeping = false; // whether this tab is the one whose work under way is kept

const viewer = new Viewer($("stage"), { onChange: showTools });

// ---- subjects: fetched ahead ----

async function fill() {
  if (state.fetching || state.done || state.queue.length >= AHEAD) return;
  state.fetching = true;
  clearTimeout(state.retry);
  try {
    const answer = await fetch(`${base}/api/v1/next`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ count: AHEAD + 1 - state.queue.length, ...(await claim()) }),
      credentials: "same-origin",
    });
    if (!answer.ok) throw Object.assign(new Error(), { status: answer.status });
    take(await answer.json());
  } catch (error) {
    state.claimed = false; // what was handed out may have been lost on its way here
    stuck(error.status ?? 0);
  } finally {
    state.fetching = false;
  }
}

/**
 * After a reload or a lost answer, what this page does not hold shall be handed out again: say what it holds. Once is
 * enough, and only the tab that keeps what is under way may: the others' subjects are not lost.
 */
async function claim() {
  if (!keeping || state.claimed) return {};
  state.claimed = true;
  const waiting = await storage.all("waiting");
  const holding = [state.current, ...state.queue, ...waiting].flatMap((one) => one?.ticket ?? []);
  return holding.length <= 20 ? { holding } : {};
}

function take({ subjects, exhausted, version }) {
  if (version.id !== config.version.id) return renew();
  const fresh = subjects.filter((one) => major(one.version) === major(config.version.number) && !seen.has(one.subject_id));
  for (const subject of fresh) {
    seen.add(subject.subject_id);
    state.queue.push({ ...subject, uuid: uuid(), walk: walks.begin(tree) });
    subject.images.forEach(preload);
  }
  state.done = exhausted;
  if (!fresh.length && !exhausted) return later();
  state.pause = 1000;
  if (!state.current && state.queue.length) advance();
  else if (!state.current) show("exhausted");
  keep();
}

/** The part of a version's number that changes with questions and answers; the other is about texts. */
function major(number) {
  return number.split(".")[0];
}

function later() {
  state.pause = Math.min((state.pause ?? 1000) * 2, 30_000);
  state.retry = setTimeout(fill, state.pause);
}

/** The team has published another version: go on with it as soon as the subject shown is finished, and kept. */
function renew() {
  state.renew = true;
  state.queue = [];
  if (state.current || state.saving) return;
  sessionStorage.setItem(`${name}:renewed`, "1");
  location.reload();
}

function stuck(status) {
  if (status === 403) halt();
  else later();
  if (state.current) return;
  $("stuck-words").textContent = trouble(status);
  show("stuck");
}

/** The volunteer is banned: asking again would not help, and what they would still answer would not count. */
function halt() {
  state.done = true;
  state.current = null;
  state.queue = [];
}

function trouble(status) {
  if (status === 403) return t("A moderator has paused your taking part. You can still look around; please write to the team about it.");
  if (!navigator.onLine) return t("You are offline. Go on: what you do is kept on this device and sent when the connection is back.");
  return t("The site does not answer at the moment. What you did is kept on this device and sent as soon as it does.");
}

function preload(url) {
  if (images.has(url)) return;
  const image = new Image();
  image.src = url;
  image.decode().catch(() => {});
  images.set(url, image);
}

function advance() {
  while (state.queue.length && expired(state.queue[0])) seen.delete(state.queue.shift().subject_id);
  state.current = state.queue.shift() ?? null;
  forget();
  if (state.current) begin(state.current);
  else if (state.done && !state.renew) show("exhausted");
  else show("loading");
  fill();
}

/** Let go of images that will not be shown again. */
function forget() {
  const near = new Set([state.current, state.last, ...state.queue].flatMap((subject) => subject?.images ?? []));
  for (const url of images.keys()) if (!near.has(url)) images.delete(url);
}

function expired(subject) {
  return Date.parse(subject.expires_at) < Date.now();
}

function begin(subject) {
  subject.startedAt ??= new Date().toISOString();
  viewer.show(subject.images, (index) => {
    const words = t("Image of subject {subject}", { subject: subject.subject_id });
    return subject.images.length > 1
      ? `${words}. ${t("Image {number} of {count}", { number: index + 1, count: subject.images.length })}`
      : words;
  });
  showThumbs(subject);
  for (const button of all('[data-do="explain"][aria-expanded="true"]')) actions.explain(button);
  pressed("favourite", Boolean(subject.favourite));
  ask();
}

// ---- questions and answers ----

function ask({ focus = true } = {}) {
  const { walk } = state.current;
  state.chosen = new Set(walks.given(walk) ?? []);
  show(null);
  for (const section of all(".question")) section.hidden = section.dataset.question !== walk.at;
  showChosen();
  showTrail();
  for (const scrolling of [$("questions"), $("panel")]) scrolling.scrollTop = 0;
  // On a narrow screen the page itself scrolls, below an image that stays: the question begins right under it.
  if (scrollY > $("bench").offsetTop) scrollTo({ top: $("bench").offsetTop, behavior: "instant" });
  if (focus) section().querySelector("h1").focus({ preventScroll: true });
}

function section() {
  return document.querySelector(`.question[data-question="${state.current.walk.at}"]`);
}

function multiple() {
  return tree.questions[state.current.walk.at].kind === "multiple";
}

function choose(slug) {
  if (!multiple()) return answer([slug]);
  state.chosen[state.chosen.has(slug) ? "delete" : "add"](slug);
  showChosen();
}

function next() {
  if (!multiple() && !state.chosen.size) return;
  const order = Object.keys(tree.questions[state.current.walk.at].answers);
  answer(order.filter((slug) => state.chosen.has(slug)));
}

function answer(given) {
  const { current } = state;
  current.walk = walks.answer(tree, current.walk, given);
  if (current.walk.at === null) return finish();
  ask();
  keep();
}

function back() {
  const { current } = state;
  current.walk = walks.back(tree, current.walk);
  ask();
  keep();
}

function finish() {
  const { current } = state;
  const annotations = walks.annotations(tree, current.walk);
  const entry = {
    kind: "classification",
    uuid: current.uuid,
    ticket: current.ticket,
    method: "POST",
    path: "/api/v1/classifications",
    body: {
      uuid: current.uuid,
      ticket: current.ticket,
      annotations,
      started_at: current.startedAt,
      finished_at: new Date().toISOString(),
      metadata: {
        page: "classify",
        language: config.language,
        viewport: [innerWidth, innerHeight],
        tools: [...viewer.used],
      },
    },
  };
  sent.set(entry.uuid, { subject: current, annotations, at: Date.now() });
  state.last = current;
  counted(1);
  advance();
  send([entry]);
}

/** Take the last classification back, and show its subject again with the answers given. */
function undo() {
  const { last } = state;
  if (!last) return say(t("Nothing to take back."));
  const entry = {
    kind: "undo",
    uuid: last.uuid,
    ticket: last.ticket,
    method: "DELETE",
    path: `/api/v1/classifications/${last.uuid}`,
  };
  sent.delete(last.uuid);
  if (state.current) state.queue.unshift(state.current);
  const passed = walks.path(tree, last.walk);
  state.current = { ...last, uuid: uuid(), walk: walks.goTo(last.walk, passed.at(-1)) };
  state.last = null;
  counted(-1);
  begin(state.current);
  say(t("Your last classification is taken back. You can answer again."));
  send([entry]);
}

function skip() {
  advance();
  keep();
  if (state.renew) renew();
}

// ---- keeping and sending ----

/** What is under way, to be taken up again after a reload. */
function draft() {
  if (!keeping) return undefined;
  const { current, queue, last } = state;
  return structuredClone({ who: config.who, major: major(config.version.number), current, queue, last });
}

async function send(entries) {
  state.saving += entries.length;
  showSending(0);
  try {
    await outbox.add(entries, draft());
  } catch {
    // The device refuses to keep anything (its disk is full): go on in memory, and say so.
    storage.database = null;
    warnNotLasting();
    await outbox.add(entries, draft());
  }
  state.saving -= entries.length;
  outbox.tell();
  if (state.renew) renew();
}

function keep() {
  if (keeping) storage.write([], draft()).catch(() => {});
}

async function resume() {
  const kept = keeping ? await storage.draft() : null;
  if (!kept || kept.major !== major(config.version.number) || !ours(kept)) return;
  const usable = [kept.current, ...kept.queue].filter((subject) => subject && !expired(subject));
  for (const subject of [...usable, kept.last]) if (subject) seen.add(subject.subject_id);
  const begun = usable[0] && Object.keys(usable[0].walk.answers).length > 0;
  state.last = kept.last && !expired(kept.last) ? kept.last : null;
  state.queue = usable;
  usable.flatMap((subject) => subject.images).forEach(preload);
  if (usable.length) advance();
  if (begun) say(t("We went on where you left off."));
}

/**
 * Whether a draft is of the person who is here now: its tickets would count under the name they were made for. A first
 * visit begins without a name.
 */
function ours({ who }) {
  return who === config.who || (who === null && config.anonymous);
}

/**
 * One tab keeps what is under way: a second one must not go on with the same subject. A page that was left or loaded
 * anew a moment ago may still hold the lock, so it is waited for.
 */
function becomeKeeper() {
  if (!navigator.locks) return Promise.resolve(true);
  return new Promise((resolve) => {
    const held = (lock) => {
      resolve(true);
      return lock && new Promise(() => {}); // held for as long as the page lives
    };
    navigator.locks.request(`${name}:draft`, { signal: AbortSignal.timeout(KEEPER_WAIT) }, held).catch(() => resolve(false));
  });
}

function replied(entry, reply) {
  const finished = sent.get(entry.uuid);
  if (entry.kind !== "classification" || !finished) return;
  sent.delete(entry.uuid);
  if (reply?.feedback && Date.now() - finished.at < RECENT) showFeedback(finished, reply.feedback);
}

function changed({ waiting, refused, trouble: status }) {
  const count = waiting.filter((entry) => entry.kind === "classification").length;
  const words = count === 1 ? t("1 classification waits to be sent") : t("{count} classifications wait to be sent", { count });
  showSending(waiting.length, count ? words : t("All sent"));
  $("refused-open").hidden = !refused.length;
  state.refused = refused;
  state.trouble = status;
  showBanner();
}

/** What is still being written to the device counts as waiting as well. */
function showSending(waiting, words) {
  $("sending").dataset.waiting = waiting + state.saving;
  if (!words || (state.saving && !waiting)) return;
  $("sending").textContent = words;
  $("sending").classList.toggle("waiting-some", waiting > 0);
}

function showBanner() {
  const bad = !navigator.onLine || (state.trouble !== null && state.trouble !== undefined);
  $("banner").hidden = !bad;
  $("banner").textContent = bad ? trouble(state.trouble ?? 0) : "";
}

function warnNotLasting() {
  say(t("This device cannot keep classifications while offline: stay connected until all are sent."), 8000);
}

function counted(change) {
  state.count = Math.max(0, state.count + change);
  sessionStorage.setItem(`${name}:count`, state.count);
  if ($("join")) $("join").hidden = state.count < ENOUGH_TO_KEEP;
  $("count").textContent = state.count ? t("{count} classified in this session", { count: state.count }) : "";
}

// ---- showing ----

/** Show one of the panels that stand in for a question, or none of them. */
function show(panel) {
  for (const id of ["loading", "exhausted", "stuck"]) $(id).hidden = id !== panel;
  $("actions").hidden = panel !== null && !state.last;
  document.body.classList.toggle("ended", panel === "exhausted");
  if (panel === null) return;
  for (const question of all(".question")) question.hidden = true;
  $("trail").hidden = true;
  $("thumbs").hidden = true;
  viewer.clear();
  document.querySelector('[data-do="next"]').hidden = true;
  for (const action of ["back", "unusual", "favourite"]) disable(action, true);
  $(panel).querySelector("h1")?.focus();
}

function showChosen() {
  const { walk } = state.current;
  for (const button of all(".answer", section())) {
    button.setAttribute("aria-pressed", state.chosen.has(button.dataset.answer));
  }
  const ready = multiple() || state.chosen.size > 0;
  const last = ready && walks.follower(tree, walk.at, [...state.chosen]) === null;
  $("next-words").textContent = last ? $("next-words").dataset.done : $("next-words").dataset.next;
  document.querySelector('[data-do="next"]').hidden = !ready;
  disable("back", !walks.path(tree, walk).length);
  disable("undo", !state.last);
  showSeen();
}

/** Nobody answers about an image that they have not seen. */
function showSeen() {
  const unseen = viewer.state !== "seen";
  $("questions").classList.toggle("unseen", unseen);
  for (const button of all(".answer")) button.disabled = unseen;
  for (const action of ["next", "unusual", "favourite"]) disable(action, unseen);
}

function showTrail() {
  const { walk } = state.current;
  const passed = walks.path(tree, walk);
  $("trail").hidden = !passed.length;
  $("trail").replaceChildren(...passed.map((question) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const words = document.createElement("span");
    button.type = "button";
    button.title = questionWords(question);
    words.textContent = answerWords(question, walk.answers[question]);
    button.append(words);
    button.addEventListener("click", () => {
      state.current.walk = walks.goTo(walk, question);
      ask();
      keep();
    });
    item.append(button);
    return item;
  }));
}

function questionWords(question) {
  return document.querySelector(`.question[data-question="${question}"] h1`)?.textContent ?? question;
}

function answerWords(question, given) {
  const words = given.map(
    (slug) =>
      document.querySelector(`.question[data-question="${question}"] [data-answer="${slug}"] .answer-text`)?.textContent ?? slug,
  );
  return words.join(", ") || t("nothing of these");
}

function showThumbs(subject) {
  $("thumbs").hidden = subject.images.length < 2;
  $("thumbs").replaceChildren(...(subject.images.length < 2 ? [] : subject.images.map((url, index) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    button.type = "button";
    button.setAttribute("aria-label", t("Image {number} of {count}", { number: index + 1, count: subject.images.length }));
    image.src = url;
    image.alt = "";
    button.append(image);
    button.addEventListener("click", () => viewer.choose(index));
    return button;
  })));
}

function showTools(viewer) {
  $("image-trouble").hidden = viewer.state !== "failed";
  showSeen();
  pressed("invert", viewer.inverted);
  $("zoom-shown").hidden = viewer.scale <= 1;
  $("zoom-shown").textContent = t("Zoom {percent} %", { percent: Math.round(viewer.scale * 100) });
  $("brightness").value = viewer.brightness;
  $("contrast").value = viewer.contrast;
  all("button", $("thumbs")).forEach((button, index) => button.setAttribute("aria-current", index === viewer.index));
}

function showFeedback({ subject, annotations }, { right, text, known }) {
  $("feedback-image").src = subject.images[0];
  $("feedback-words").textContent = text;
  $("feedback").classList.toggle("right", right);
  $("feedback-rows").replaceChildren(...Object.entries(known).filter(([question]) => tree.questions[question]).map(([question, answers]) => {
    const yours = annotations[question];
    const theirs = answerWords(question, answers);
    const same = yours && yours.length === answers.length && yours.every((slug) => answers.includes(slug));
    const item = document.createElement("li");
    const asked = document.createElement("span");
    asked.className = "quiet small-text";
    asked.textContent = questionWords(question);
    item.className = same ? "same" : yours ? "other" : "unasked";
    item.append(asked, same || !yours ? theirs : t("{theirs} (you said: {yours})", { theirs, yours: answerWords(question, yours) }));
    return item;
  }));
  open($("feedback"));
}

function showRefused() {
  $("refused-list").replaceChildren(...state.refused.map((entry) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    item.textContent = `${entry.reason} `;
    button.type = "button";
    button.className = "button small";
    button.textContent = $("refused-list").dataset.remove;
    button.addEventListener("click", () => {
      outbox.dismiss(entry);
      item.remove();
    });
    item.append(button);
    return item;
  }));
  open($("refused"));
}

function open(dialog) {
  if (!dialog || dialog.open) return;
  dialog.openedAt = performance.now();
  dialog.showModal();
}

function say(words, lasting = 4000) {
  $("toast").textContent = words;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => ($("toast").textContent = ""), lasting);
}

function pressed(action, on) {
  for (const button of all(`[data-do="${action}"]`)) button.setAttribute("aria-pressed", on);
}

function disable(action, off) {
  for (const button of all(`[data-do="${action}"]`)) button.disabled = off;
}

// ---- tutorial ----

function tutorial(change) {
  const steps = all(".tutorial-step", $("tutorial"));
  const at = steps.findIndex((step) => !step.hidden) + change;
  if (at >= steps.length) return $("tutorial").close();
  steps.forEach((step, index) => (step.hidden = index !== Math.max(at, 0)));
  $("tutorial-place").textContent = `${Math.max(at, 0) + 1} / ${steps.length}`;
  const words = $("tutorial-next-words");
  words.textContent = at === steps.length - 1 ? words.dataset.done : words.dataset.next;
  disable("tutorial-back", at <= 0);
  all('[data-do="tutorial-skip"]').forEach((button) => (button.hidden = at === steps.length - 1));
}

/** The field guide stands beside the image, which stays in reach. */
function guide() {
  const drawer = $("guide");
  if (drawer) drawer.open ? drawer.close() : drawer.show();
}

function openTutorial() {
  if (!$("tutorial")) return;
  all(".tutorial-step", $("tutorial")).forEach((step, index) => (step.hidden = index > 0));
  tutorial(0);
  open($("tutorial"));
}

// ---- what one can do ----

const unlessIdle = (work) => (...args) => state.current && work(...args);
const onceSeen = (work) => (...args) => state.current && viewer.state === "seen" && work(...args);

const actions = {
  back: unlessIdle(back),
  next: onceSeen(next),
  undo,
  unusual: onceSeen(() => open($("unusual"))),
  favourite: onceSeen(favourite),
  keys: () => open($("keys")),
  guide,
  tutorial: openTutorial,
  "tutorial-next": () => tutorial(1),
  "tutorial-back": () => tutorial(-1),
  "tutorial-skip": () => $("tutorial").close(),
  "zoom-in": unlessIdle(() => viewer.zoom(1.4)),
  "zoom-out": unlessIdle(() => viewer.zoom(1 / 1.4)),
  rotate: unlessIdle(() => viewer.rotate()),
  invert: unlessIdle(() => viewer.invert()),
  reset: unlessIdle(() => viewer.reset()),
  brighter: unlessIdle(() => viewer.brighter()),
  fullscreen: () => (document.fullscreenElement ? document.exitFullscreen() : $("bench").requestFullscreen?.()),
  reload: () => viewer.reload(),
  skip: unlessIdle(skip),
  refused: showRefused,
  "look-again": () => {
    state.done = state.claimed = false;
    show("loading");
    fill();
    outbox.hurry();
  },
  explain: (button) => {
    const help = $(button.getAttribute("aria-controls"));
    help.hidden = !help.hidden;
    button.setAttribute("aria-expanded", !help.hidden);
  },
};

function favourite() {
  const { current } = state;
  current.favourite = !current.favourite;
  pressed("favourite", current.favourite);
  say(current.favourite ? t("Kept among your favourites") : t("No longer among your favourites"));
  const place = current.subject_id.split("/").map(encodeURIComponent).join("/");
  send([{ kind: "favourite", uuid: uuid(), method: current.favourite ? "PUT" : "DELETE", path: `/api/v1/favourites/${place}` }]);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) return actions[button.dataset.do](button);
  const chosen = event.target.closest(".answer");
  if (chosen) choose(chosen.dataset.answer);
});

$("unusual").addEventListener("close", () => {
  const comment = $("comment").value.trim();
  if ($("unusual").returnValue === "send" && state.current) {
    const id = uuid();
    const { ticket } = state.current;
    send([{ kind: "find", uuid: id, ticket, method: "POST", path: "/api/v1/finds", body: { uuid: id, ticket, comment } }]);
    say(t("Thank you! The team will look at it."));
  }
  $("unusual").returnValue = "";
  $("comment").value = "";
});

$("comment").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("unusual").close("send");
});

// A fast hand was already on its way to the next image when feedback opened: let that key pass without effect.
$("feedback").addEventListener("keydown", (event) => {
  if (performance.now() - $("feedback").openedAt < GUARD) event.preventDefault();
});

for (const id of ["brightness", "contrast"]) {
  $(id).addEventListener("input", () => viewer.light({ [id]: Number($(id).value) }));
}

document.addEventListener("fullscreenchange", () => pressed("fullscreen", Boolean(document.fullscreenElement)));
if (!document.fullscreenEnabled) all('[data-do="fullscreen"]').forEach((button) => button.remove());
addEventListener("offline", showBanner);
addEventListener("online", () => {
  showBanner();
  fill();
});

// ---- keys ----

const KEYS = {
  Enter: "next", Backspace: "back", "?": "keys", u: "undo", f: "unusual", h: "favourite", i: "invert", z: "zoom-in",
  "+": "zoom-in", "=": "zoom-in", "-": "zoom-out", r: "rotate", b: "brighter", x: "reset", g: "guide", t: "tutorial",
};
const REPEATING = new Set(["zoom-in", "zoom-out"]);
const BESIDE_THE_GUIDE = new Set(["zoom-in", "zoom-out", "invert", "rotate", "brighter", "reset", "guide"]);
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** Whether a key belongs to what has the focus: a field one types in, or a button that Enter and space press. */
function takes(target, key) {
  if (target.closest("textarea, select, [contenteditable], input:not([type=range], [type=checkbox])")) return true;
  if (target.matches("input[type=range]")) return key.startsWith("Arrow");
  if (key === "Enter" && target.matches('[data-kind="multiple"] .answer')) return false; // space ticks, Enter goes on
  return key === "Enter" && target.matches("button, a, summary");
}

function press(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (document.querySelector("dialog[open]:modal") || takes(event.target, event.key)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "Escape" && $("guide")?.open) return $("guide").close();
  if ($("guide")?.open && !BESIDE_THE_GUIDE.has(KEYS[key]) && !ARROWS[key]) return;
  if (key === "f" && event.shiftKey) return did(event, "fullscreen");
  if (ARROWS[key]) return arrow(event, key);
  if (/^[0-9]$/.test(key)) return number(event, (Number(key) + 9) % 10);
  if (KEYS[key]) did(event, KEYS[key]);
}

function did(event, action) {
  event.preventDefault();
  if (!event.repeat || REPEATING.has(action)) actions[action]();
}

function number(event, index) {
  const button = state.current && all(".answer", section())[index];
  if (!button || button.disabled || event.repeat) return;
  event.preventDefault();
  choose(button.dataset.answer);
}

function arrow(event, key) {
  if (!state.current) return;
  const [x, y] = ARROWS[key];
  if (viewer.scale > 1) viewer.pan(x * 60, y * 60);
  else if (x && viewer.urls.length > 1) viewer.choose(viewer.index - x);
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", press);

// ---- begin ----

async function start() {
  storage = await Storage.open(name);
  if (!storage.lasting) warnNotLasting();
  outbox = new Outbox(storage, name, base, { onChange: changed, onReply: replied });
  keeping = await becomeKeeper();
  state.count = Number(sessionStorage.getItem(`${name}:count`)) || 0;
  counted(0);
  await resume();
  if (sessionStorage.getItem(`${name}:renewed`)) {
    sessionStorage.removeItem(`${name}:renewed`);
    say(t("The workflow has been changed by the team: the page was loaded anew."));
  }
  outbox.tell();
  outbox.hurry();
  await fill();
  if ($("tutorial") && !localStorage.getItem(`${name}:tutorial`)) {
    openTutorial();
    localStorage.setItem(`${name}:tutorial`, "seen");
  }
}

start();
