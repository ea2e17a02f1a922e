// One recording as the page needs it, and what switches between recordings.

class View {
  constructor({ recording, steps }) {
    Object.assign(this, { recording, steps, nodes: recording.nodes, events: recording.events });
    const { nodes } = this;
    this.boxes = nodes.map((node, i) => i).filter((i) => nodes[i].inside === i);
    this.edges = [];
    nodes.forEach((node, i) => node.inputs.forEach((from, input) => {
      if (from < 0 || nodes[from].inside === nodes[i].inside) return;
      const twice = node.inputs.filter((k) => k === from).length > 1;
      this.edges.push({ node: i, input, from, off: twice ? (input ? 7 : -7) : 0 });
    }));
    this.stepOf = new Map(steps.map((s, k) => [s.event, k]));
    this.seedStep = steps.findIndex((s) => s.kind === "seed");
  }

  box(i) { return this.nodes[i].inside; }
  shownIndex(b) { return this.nodes.findLastIndex((node) => node.inside === b); }
  shownNode(b) { return this.nodes[this.shownIndex(b)]; }

  hasValue(b, step, hidden) {
    const at = this.steps.findIndex((s) => s.kind === "forward" && s.node === b);
    return at < 0 || at < step || (at === step && !hidden);
  }

  // Whether contribution k has been made. One inside a box comes with the one before it.
  happened(k, step, hidden) {
    while (!this.stepOf.has(k)) k -= 1;
    const at = this.stepOf.get(k);
    return at < step || (at === step && !hidden);
  }

  lastEvent(node, step, hidden) {
    return this.events.findLast((e, k) => e.to === node && this.happened(k, step, hidden));
  }

  gradientAt(node, step, hidden) {
    if (node === this.recording.output) {
      return { array: step >= this.seedStep ? this.recording.seed : null, awaited: 0 };
    }
    const last = this.lastEvent(node, step, hidden);
    return last ? { array: last.total, awaited: last.awaited } : { array: null, awaited: this.nodes[node].waits };
  }

  awaitedFrom(k) {
    const later = this.events.slice(k + 1).filter((e) => e.to === this.events[k].to);
    const symbols = later.map((e) => this.nodes[e.node].symbol);
    return [...new Set(symbols)].map((s) => (symbols.filter((t) => t === s).length > 1 ? `${s} (twice)` : s));
  }
}

// Templates and packed recordings: see packing.py.
function filled(part, packed, texts) {
  if (part === null || typeof part !== "object") return part;
  if (Array.isArray(part)) return part.map((p) => filled(p, packed, texts));
  if ("#" in part) return packed.a[packed.i[part["#"]]];
  if ("$" in part) return packed.s[part["$"]] ?? texts[part["$"]];
  return Object.fromEntries(Object.entries(part).map(([k, p]) => [k, filled(p, packed, texts)]));
}

let data, view, ghost, player;
const views = {};

function viewOf(name) {
  const packed = data.recordings[name], template = data.templates[packed.t];
  views[name] ??= new View(filled(template.structure, packed, template.texts));
  return views[name];
}

function render(step, hidden) {
  drawGraph(view, step, hidden);
  drawNow(view, step, hidden);
  drawPiles(view, step, hidden, ghost);
  drawPaths(view, step, hidden);
  drawProgram(view, step);
  drawEverything(view, step, hidden);
  const now = view.steps[step], event = view.events[now.event];
  const said = hidden ? "Predict first." : now.say + (event ? ` It adds ${list(event.value)}.` : "");
  $("#live").textContent = `Step ${step} of ${view.steps.length - 1}. ${now.title}. ${said}`;
  try {
    history.replaceState(null, "", `#${new URLSearchParams({ step, show: chosen().join("/") })}`);
  } catch { /* a frame without an address has no hash */ }
}

const chosen = () => data.questions.map((q) => $(`[name=${q.name}]:checked`).value);

// The step of another recording that is most like this one.
function sameStep(other, now) {
  const k = other.steps.findIndex((s) => s.kind === now.kind && s.title === now.title);
  if (k >= 0) return k;
  return Math.max(0, other.steps.findLastIndex((s) => s.kind === now.kind));
}

function choose(name, step) {
  const next = viewOf(name), now = view?.steps[player.at];
  const before = view?.nodes[view.recording.x].gradient;
  ghost = before && before.length === next.recording.labels.length && next !== view ? before : undefined;
  view = next;
  player.count = view.steps.length;
  player.canAsk = (k) => ["forward", "backward"].includes(view.steps[k].kind);
  $("#normname").textContent = { batch: "batch norm", layer: "layer norm", rms: "RMS norm" }[view.recording.norm];
  $("#subject").textContent = view.recording.subject;
  const about = Object.entries(view.recording.provenance).map(([k, v]) => (k === "command" ? v : `${k} ${v}`));
  $("#provenance").textContent = `Recorded, not computed here: ${about.join(" · ")} · format ${view.recording.version}`;
  player.go(step ?? (now ? sameStep(view, now) : 0));
}

function changed() {
  const constant = $("[name=statistics][value=constant]");
  if (constant) {
    constant.disabled = $("[name=norm]:checked").value !== "batch";
    if (constant.disabled && constant.checked) $("[name=statistics][value=computed]").checked = true;
  }
  choose(chosen().join("/"));
}

function ask() {
  const start = data.start.split("/");
  $("#questions").replaceChildren(...data.questions.map((question, i) => {
    const labels = question.options.map(({ value, label, say }) => {
      const input = element("input", { type: "radio", name: question.name, value, title: say });
      input.checked = value === start[i];
      input.onchange = () => { $("#whatif").textContent = say; changed(); };
      return element("label", { title: say }, input, label);
    });
    const name = element("legend", {}, question.label);
    return element("fieldset", {}, name, element("div", { class: "options" }, ...labels));
  }));
}

unpacked().then((found) => {
  data = found;
  player = new Player(render);
  $("#switch").open = innerWidth >= 700;
  ask();
  const hash = new URLSearchParams(location.hash.slice(1));
  const asked = hash.get("show")?.split("/") ?? [];
  data.questions.forEach((q, i) => {
    const input = $(`[name=${q.name}][value="${CSS.escape(asked[i] ?? "")}"]`);
    if (asked.join("/") in data.recordings && input) input.checked = true;
  });
  if ($("[name=statistics]")) $("[name=statistics][value=constant]").disabled = $("[name=norm]:checked").value !== "batch";
  choose(chosen().join("/"), Number(hash.get("step")) || 0);
  $("#pathkeys").replaceChildren(...Object.keys(PATHS).flatMap((path) => [key(path), PATHS[path].name, element("br")]));
  new ResizeObserver(() => {
    drawGraph(view, player.at, player.hidden);
    drawPiles(view, player.at, player.hidden, ghost);
  }).observe($("#graph"));
  $("#predict").onchange = () => player.go(player.at);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  document.body.dataset.ready = "yes";
});
