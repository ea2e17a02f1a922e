"use strict";
const $ = (selector) => document.querySelector(selector);

// --- numbers: as formatting.py writes them ---

function shown(value, decimals = 6) {
  if (typeof value === "string") return value;
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size < (decimals > 4 ? 5e-5 : 5e-4) || size >= 1e6) {
    text = value.toExponential(decimals > 4 ? 1 : 0).replace("e+", "e");
  } else {
    text = value.toFixed(decimals).replace(/\.?0+$/, "");
  }
  return text.replaceAll("-", "−");
}

const list = (array) => array.map((v) => shown(v)).join(", ");

// --- elements ---

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "path", "text", "line", "circle", "pattern", "defs", "title"];
  const node = svg.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// --- the data: JSON, gzip, base64; see packing.py for what is in it ---

let data;

async function begin(start) {
  const bytes = Uint8Array.from(atob($("#data").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  data = JSON.parse(await new Response(stream).text());
  start();
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  document.body.dataset.ready = "yes";
}

function unfolded(name) {
  const packed = data.packed[name], { structure, texts } = data.templates[packed.t];
  return filled(structure, packed, texts);
}

function filled(part, packed, texts) {
  if (part === null || typeof part !== "object") return part;
  if (Array.isArray(part)) return part.map((p) => filled(p, packed, texts));
  if ("#" in part) return packed.a[packed.i[part["#"]]];
  if ("$" in part) return packed.s[part["$"]] ?? texts[part["$"]];
  return Object.fromEntries(Object.entries(part).map(([k, p]) => [k, filled(p, packed, texts)]));
}

// --- what if: radio buttons, and the address, which remembers the answers and the step ---

const chosen = () => data.questions.map((q) => $(`[name=${q.name}]:checked`).value);

// Shows the questions, answered as the address says. Returns the step that it says.
function ask(changed) {
  const hash = new URLSearchParams(location.hash.slice(1)), show = hash.get("show");
  const answers = (show in data.packed ? show : data.start).split("/");
  $("#switch").open = innerWidth >= 700;
  $("#questions").replaceChildren(...data.questions.map(({ name, label, options }, i) => {
    const labels = options.map((option) => {
      const input = element("input", { type: "radio", name, value: option.value });
      input.checked = option.value === answers[i];
      input.onchange = () => { $("#whatif").textContent = option.say; changed(); };
      const choice = element("label", { title: option.say }, input, option.label);
      choice.onclick = (event) => { // after a click, the arrow keys step again
        if (event.detail) setTimeout(() => input.blur());
      };
      return choice;
    });
    return element("fieldset", {}, element("legend", {}, label), element("div", { class: "options" }, ...labels));
  }));
  return Number(hash.get("step")) || 0;
}

function remember(step) {
  try {
    history.replaceState(null, "", `#${new URLSearchParams({ step, show: chosen().join("/") })}`);
  } catch { /* a frame without an address has no hash */ }
}

// --- light and dark ---

$("#theme").onclick = () => {
  const root = document.documentElement;
  const dark = root.style.colorScheme
    ? root.style.colorScheme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.style.colorScheme = dark ? "light" : "dark";
};

// --- stepping: buttons, slider, keys, play ---

class Player {
  // render(step) draws a step; ask() says whether a step hides its numbers at first.
  constructor(render) {
    this.render = render;
    this.at = 0;
    this.count = 1;
    this.hidden = false;
    this.timer = null;
    $("#first").onclick = () => this.go(0);
    $("#back").onclick = () => this.back();
    $("#next").onclick = () => this.next();
    $("#last").onclick = () => this.go(this.count - 1);
    $("#play").onclick = () => this.play(!this.timer);
    $("#slider").oninput = (event) => this.go(Number(event.target.value));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  go(step, hidden = false) {
    this.at = Math.max(0, Math.min(this.count - 1, step));
    this.hidden = hidden;
    $("#slider").max = this.count - 1;
    $("#slider").value = this.at;
    $("#counter").textContent = `step ${this.at} / ${this.count - 1}`;
    $("#slider").setAttribute("aria-valuetext", $("#counter").textContent);
    if (this.at === this.count - 1) this.play(false);
    this.render(this.at, this.hidden);
  }

  next() {
    if (this.hidden) this.go(this.at);
    else if (this.at < this.count - 1) this.go(this.at + 1, this.asks(this.at + 1));
  }

  back() {
    this.go(this.at - 1);
  }

  asks(step) {
    return Boolean($("#predict")?.checked) && this.canAsk(step);
  }

  play(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.next(), 1800) : null;
    $("#play").textContent = on ? "❚❚ pause" : "▶ play";
    if (on && this.at === this.count - 1) this.go(0);
  }

  key(event) {
    const on = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || on.type === "radio") return;
    const steps = {
      ArrowRight: () => this.next(),
      ArrowLeft: () => this.back(),
      Home: () => this.go(0),
      End: () => this.go(this.count - 1),
      " ": () => this.play(!this.timer),
    };
    const presses = on.closest("button, summary, a, [type=checkbox]");
    if (!(event.key in steps) || (event.key === " " && presses)) return;
    event.preventDefault();
    steps[event.key]();
  }
}
