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

let view, ghost, player;
const views = {};

function viewOf(name) {
  views[name] ??= new View(unfolded(name));
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
  remember(step);
}

// The step of another recording that is most like this one.
function sameStep(other, now) {
  const k = other.steps.findIndex((s) => s.kind === now.kind && s.title === now.title);
  if (k >= 0) return k;
  return Math.max(0, other.steps.findLastIndex((s) => s.kind === now.kind));
}

function choose(name) {
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
  player.go(now ? sameStep(view, now) : 0);
}

function changed() {
  const constant = $("[name=statistics][value=constant]");
  if (constant) {
    constant.disabled = $("[name=norm]:checked").value !== "batch";
    if (constant.disabled && constant.checked) $("[name=statistics][value=computed]").checked = true;
  }
  choose(chosen().join("/"));
}

begin(() => {
  player = new Player(render);
  const step = ask(changed);
  changed();
  player.go(step);
  $("#pathkeys").replaceChildren(...Object.keys(PATHS).flatMap((path) => [key(path), PATHS[path].name, element("br")]));
  new ResizeObserver(() => {
    drawGraph(view, player.at, player.hidden);
    drawPiles(view, player.at, player.hidden, ghost);
  }).observe($("#graph"));
  $("#predict").onchange = () => player.go(player.at);
});
