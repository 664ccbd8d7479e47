// Shows a subject's images: zoom, pan, turn, invert, brightness, contrast. Only how they look changes, never the files.

const CLOSEST = 12; // times as large as fitted
const BRIGHTNESS = [1, 1.5, 2.2, 3.5, 0.6];

export class Viewer {
  /** `stage` holds one <img>; `onChange(viewer)` after every change. `state` says what is seen of the image chosen. */
  constructor(stage, { onChange }) {
    this.stage = stage;
    this.image = stage.querySelector("img");
    this.onChange = onChange;
    this.pointers = new Map();
    this.used = new Set();
    this.image.addEventListener("error", () => this.image.getAttribute("src") && this.#became("failed"));
    this.image.addEventListener("load", () => this.#became("seen"));
    this.state = "empty"; // or loading, seen, failed
    this.#listen();
    this.reset();
  }

  /** Show a subject from its first image; how it was turned and lit goes back to normal. */
  show(urls, alt) {
    this.urls = urls;
    this.alt = alt;
    this.used = new Set();
    this.reset();
    this.choose(0);
  }

  choose(index) {
    this.index = (index + this.urls.length) % this.urls.length;
    const url = this.urls[this.index];
    if (this.image.getAttribute("src") !== url) {
      this.image.src = url;
      // What was fetched ahead is there at once; an image that failed is complete as well, and has no size.
      this.state = this.image.complete && this.image.naturalWidth ? "seen" : "loading";
    }
    this.image.alt = this.alt(this.index);
    this.#became(this.state);
  }

  /** Show nothing. */
  clear() {
    this.urls = null;
    this.image.removeAttribute("src");
    this.image.alt = "";
    this.#became("empty");
  }

  reload() {
    this.image.removeAttribute("src");
    this.choose(this.index);
  }

  reset() {
    Object.assign(this, { scale: 1, x: 0, y: 0, turned: 0, inverted: false, brightness: 1, contrast: 1 });
    this.#draw();
  }

  /** Zoom by a factor, keeping the point (x, y), from the stage's middle, in its place. */
  zoom(factor, x = 0, y = 0) {
    const scale = Math.min(Math.max(this.scale * factor, 1), CLOSEST);
    const change = scale / this.scale;
    this.x = x - (x - this.x) * change;
    this.y = y - (y - this.y) * change;
    this.scale = scale;
    this.#did("zoom");
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.#did("pan");
  }

  rotate() {
    this.turned = (this.turned + 90) % 360;
    [this.x, this.y] = [-this.y, this.x];
    this.#did("rotate");
  }

  invert() {
    this.inverted = !this.inverted;
    this.#did("invert");
  }

  brighter() {
    this.brightness = BRIGHTNESS[(BRIGHTNESS.indexOf(this.brightness) + 1) % BRIGHTNESS.length];
    this.#did("brightness");
  }

  light({ brightness = this.brightness, contrast = this.contrast }) {
    Object.assign(this, { brightness, contrast });
    this.#did("brightness");
  }

  #became(state) {
    this.state = state;
    for (const one of ["loading", "failed"]) this.stage.classList.toggle(one, state === one);
    this.onChange(this);
  }

  #did(tool) {
    this.used.add(tool);
    this.#draw();
  }

  #draw() {
    const { width, height } = this.stage.getBoundingClientRect();
    const [farX, farY] = [(width * (this.scale - 1)) / 2, (height * (this.scale - 1)) / 2];
    this.x = Math.min(Math.max(this.x, -farX), farX);
    this.y = Math.min(Math.max(this.y, -farY), farY);
    const scale = this.scale * this.#fit(width, height);
    this.image.style.transform = `translate(${this.x}px, ${this.y}px) scale(${scale}) rotate(${this.turned}deg)`;
    // CSS filter functions work on the sRGB values as displayed: invert(1) turns v into 255 − v, which is what one
    // expects of a negative; inverting linear light would drown faint detail.
    this.image.style.filter =
      `invert(${this.inverted ? 1 : 0}) brightness(${this.brightness}) contrast(${this.contrast})`;
    this.stage.classList.toggle("zoomed", this.scale > 1);
    if (this.urls) this.onChange(this);
  }

  /** How much larger or smaller an image lying on its side is shown, so that it still just fits the stage. */
  #fit(width, height) {
    const { naturalWidth: w, naturalHeight: h } = this.image;
    if (this.turned % 180 === 0 || !w || !h || !width || !height) return 1;
    return Math.min(width / h, height / w) / Math.min(width / w, height / h);
  }

  // ---- pointer and wheel ----

  #listen() {
    const { stage } = this;
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), ...this.#from(event));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => this.zoom(this.scale > 1 ? 1 / CLOSEST : 3, ...this.#from(event)));
    stage.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button, a")) return;
      stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
    });
    stage.addEventListener("pointermove", (event) => this.#moved(event));
    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    new ResizeObserver(() => this.#draw()).observe(stage);
  }

  #moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    if (other) {
      const [x, y] = this.#from({ clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 });
      this.zoom(distance(event, other) / Math.max(distance(before, other), 1), x, y);
    }
    const share = other ? 0.5 : 1; // of two fingers, each moves the middle by half
    this.pointers.set(event.pointerId, event);
    if (this.scale > 1) this.pan((event.clientX - before.clientX) * share, (event.clientY - before.clientY) * share);
  }

  #from(event) {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return [event.clientX - left - width / 2, event.clientY - top - height / 2];
  }
}

function distance(one, other) {
  return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
}
