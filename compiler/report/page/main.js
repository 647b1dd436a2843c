// The page: canvases, pointer and keys, search, theme, print.

const GUTTER = 76;
const RIGHT = 10;
const AXIS_HEIGHT = 24;
const LANE_HEIGHT = 26;
const USE_SHARE = 0.17;
const GAP = 10;
const POOL_FIRST = 0.5; // share of the arena below which what changes is what the map opens on
const POINTING = 3; // pixels around the pointer in which something thin is still hit

const model = new PlanModel(JSON.parse(byId("plan").textContent));
const index = new SpanIndex(model);
const axes = { step: new StepAxis(model), time: new TimeAxis(model) };
const view = new View(model, axes.step);
if (model.pool[1] - model.pool[0] < POOL_FIRST * model.arena) view.fitPool();
const [base, overlay, tip] = [byId("base"), byId("overlay"), byId("tip")];
const inspector = new Inspector(model, byId("details"), byId("matches"), choose);
stepTable(model, byId("steps"), (target) => { choose(target); overlay.focus(); });

let ratio = 1;
let panels = {};
let palette = null;
let hovered = null;
let kept = null;
let pointer = null;
let box = null;
let matches = null;
let walk = [...model.order];
let frame = 0;
let stale = true;

function layout() {
  ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = overlay;
  for (const canvas of [base, overlay]) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const across = Math.max(1, width - GUTTER - RIGHT);
  const useHeight = Math.round(height * USE_SHARE);
  const below = useHeight + 2 * LANE_HEIGHT + 3 * GAP + AXIS_HEIGHT;
  let top = GAP;
  const next = (panelHeight, gap) => {
    const panel = new Panel(GUTTER, top, across, Math.max(1, panelHeight));
    top += panelHeight + gap;
    return panel;
  };
  panels = {
    map: next(height - below - GAP, GAP),
    use: next(useHeight, GAP),
    computing: next(LANE_HEIGHT, 4),
    reading: next(LANE_HEIGHT, 4),
    across: next(AXIS_HEIGHT, 0),
  };
  palette = new Palette(document.documentElement, ratio);
  refresh();
}

/** Ask for the next frame; without `all` only what lies above the picture is drawn again. */
function refresh(all = true) {
  stale ||= all;
  frame ||= requestAnimationFrame(paint);
}

function paint() {
  frame = 0;
  if (stale) {
    stale = false;
    paintBase();
  }
  paintOverlay();
}

function paintBase() {
  const pen = base.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, base.width, base.height);
  drawMap(pen, panels.map, view, model, palette, ratio, matches);
  drawUse(pen, panels.use, view, model, palette);
  drawComputing(pen, panels.computing, view, model, palette);
  drawReading(pen, panels.reading, view, model, palette);
  drawAcross(pen, panels.across, view, palette);
}

function paintOverlay() {
  const pen = overlay.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, overlay.width, overlay.height);
  const shown = hovered ?? kept;
  inspector.show(kept ?? hovered);
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER, 0, panels.map.width, overlay.clientHeight);
  pen.clip();
  if (kept) outline(pen, kept, 2.5);
  if (shown && shown !== kept) outline(pen, shown, 1.5);
  if (pointer && pointer.x >= GUTTER) {
    pen.globalAlpha = 0.45;
    pen.fillStyle = palette.mark;
    pen.fillRect(Math.round(pointer.x), panels.map.top, 1, panels.across.top - panels.map.top);
    pen.globalAlpha = 1;
  }
  if (box) {
    pen.strokeStyle = palette.accent;
    pen.lineWidth = 1.5;
    pen.strokeRect(box.x, box.y, pointer.x - box.x, pointer.y - box.y);
  }
  pen.restore();
  showTip();
}

function outline(pen, target, width) {
  pen.strokeStyle = palette.mark;
  pen.lineWidth = width;
  if (target.type === "span") {
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, panels.map.top, panels.map.width, panels.map.height);
    pen.clip();
    for (const s of model.spansOf[model.owner[target.id]]) {
      const edge = spanBox(model, view, panels.map, ratio, s, model.first[s], model.last[s]);
      pen.strokeRect(edge.x, edge.y, edge.w, edge.h);
    }
    pen.restore();
  } else if (target.type === "load") {
    for (const [begin, end] of loadPieces(model, target.id)) {
      const left = panels.reading.x(view, view.axis.ofTime(begin));
      const right = panels.reading.x(view, view.axis.ofTime(end));
      pen.strokeRect(left, panels.reading.top, Math.max(1, right - left), LANE_HEIGHT);
    }
    outline(pen, { type: "span", id: model.spansOf[model.loads.owner[target.id]][0] }, 1);
  } else {
    const left = panels.map.x(view, view.axis.ofStep(target.id));
    const right = panels.map.x(view, view.axis.ofStep(target.id + 1));
    const bottom = panels.across.top;
    pen.strokeRect(left, panels.map.top, Math.max(1, right - left), bottom - panels.map.top);
  }
}

function showTip() {
  tip.hidden = !hovered || !pointer || box !== null;
  if (tip.hidden) return;
  const [title, rest] = inspector.line(hovered);
  tip.replaceChildren(title, element("small", { textContent: rest }));
  const { clientWidth: width, clientHeight: height } = overlay;
  const left = pointer.x + 14 + tip.offsetWidth > width ? pointer.x - 14 - tip.offsetWidth : pointer.x + 14;
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${Math.max(0, Math.min(height - tip.offsetHeight - 4, pointer.y + 14))}px`;
}

/** What lies under a point: a span of the map, a load of its lane, or else a step. */
function targetAt(x, y) {
  if (x < GUTTER || !model.stepCount) return null;
  const unit = panels.map.unit(view, x);
  const step = view.axis.toStep(unit);
  if (panels.map.holds(x, y)) {
    const around = Math.abs(view.axis.toStep(panels.map.unit(view, x + POINTING)) - step);
    const bytes = (POINTING * (view.y1 - view.y0)) / panels.map.height;
    const span = index.at(step, panels.map.byte(view, y), around, bytes);
    return span < 0 ? null : { type: "span", id: span };
  }
  if (panels.reading.holds(x, y)) {
    const load = loadAt(unit);
    if (load >= 0) return { type: "load", id: load };
  }
  if (y < panels.use.top || y >= panels.across.top) return null;
  return { type: "step", id: Math.min(model.stepCount - 1, Math.max(0, Math.floor(step))) };
}

function loadAt(unit) {
  for (let k = 0; k < model.loadCount; k++) {
    for (const [begin, end] of loadPieces(model, k)) {
      if (view.axis.ofTime(begin) <= unit && unit < view.axis.ofTime(end)) return k;
    }
  }
  return -1;
}

/** Keep a target, bring it into view and say what it is. */
function choose(target) {
  kept = target;
  hovered = null;
  if (target) {
    const [title, rest] = inspector.line(target);
    byId("spoken").textContent = `${title}; ${rest}`;
    if (target.type === "span") {
      const s = target.id;
      view.reveal(model.first[s], model.last[s], model.offset[s], model.end(s));
    } else if (target.type === "step") {
      view.reveal(target.id, target.id + 1, view.y0, view.y1);
    }
  }
  refresh();
}

function zoomTo(target) {
  if (target?.type === "span") {
    const s = target.id;
    view.centre(model.first[s], model.last[s], model.offset[s], model.end(s));
  } else if (target?.type === "step") {
    view.centre(Math.max(0, target.id - 2), Math.min(model.stepCount, target.id + 3), view.y0, view.y1);
    view.show(view.x0, view.x1, 0, view.top);
  }
  refresh();
}

function search(query) {
  matches = model.search(query);
  walk = [...model.order].filter((s) => matches === null || matches.has(model.owner[s]));
  const found = new Map();
  if (matches) for (const s of walk) if (!found.has(model.owner[s])) found.set(model.owner[s], s);
  byId("found").textContent = matches ? `${grouped(matches.size)} found` : "";
  inspector.list(matches ? [...found.values()] : null);
  refresh();
}

function step(direction) {
  if (!walk.length) return;
  const at = kept?.type === "span" ? walk.indexOf(kept.id) : -1;
  const next = at < 0 ? (direction > 0 ? 0 : walk.length - 1) : (at + direction + walk.length) % walk.length;
  choose({ type: "span", id: walk[next] });
}

function zoomBy(factorX, factorY, x, y) {
  const middle = [(view.x0 + view.x1) / 2, (view.y0 + view.y1) / 2];
  view.zoom(factorX, factorY, x ?? middle[0], y ?? middle[1]);
  refresh();
}

function place(event) {
  const edge = overlay.getBoundingClientRect();
  return { x: event.clientX - edge.left, y: event.clientY - edge.top };
}

let drag = null;

overlay.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  overlay.setPointerCapture(event.pointerId);
  pointer = place(event);
  drag = { ...pointer, moved: false };
  if (event.shiftKey && panels.map.holds(pointer.x, pointer.y)) box = { ...pointer };
});

overlay.addEventListener("pointermove", (event) => {
  const now = place(event);
  if (drag && !box && (drag.moved || Math.hypot(now.x - drag.x, now.y - drag.y) > 3)) {
    if (!drag.moved) overlay.classList.add("panning");
    drag.moved = true;
    const { map } = panels;
    view.pan(map.unit(view, pointer.x) - map.unit(view, now.x), map.byte(view, pointer.y) - map.byte(view, now.y));
    hovered = null;
    pointer = now;
    refresh();
    return;
  }
  pointer = now;
  hovered = drag ? hovered : targetAt(now.x, now.y);
  refresh(false);
});

overlay.addEventListener("pointerup", (event) => {
  const now = place(event);
  if (box && Math.abs(now.x - box.x) > 4 && Math.abs(now.y - box.y) > 4) {
    const { map } = panels;
    const units = [map.unit(view, box.x), map.unit(view, now.x)].sort((a, b) => a - b);
    const bytes = [map.byte(view, box.y), map.byte(view, now.y)].sort((a, b) => a - b);
    view.show(...units, ...bytes);
  } else if (drag && !drag.moved) {
    choose(targetAt(now.x, now.y));
  }
  drag = box = null;
  overlay.classList.remove("panning");
  refresh();
});

overlay.addEventListener("pointercancel", () => { drag = box = null; overlay.classList.remove("panning"); refresh(); });
overlay.addEventListener("pointerleave", () => { pointer = hovered = null; refresh(false); });
overlay.addEventListener("dblclick", (event) => { const at = place(event); zoomTo(targetAt(at.x, at.y)); });

overlay.addEventListener("wheel", (event) => {
  // With nothing left to zoom out of, the wheel scrolls the page, as it does anywhere else.
  const delta = event.deltaY || event.deltaX;
  if (event.ctrlKey === false && delta > 0 && view.whole) return;
  event.preventDefault();
  const factor = Math.exp(Math.max(-1, Math.min(1, delta * 0.0015)));
  pointer = place(event);
  const inMap = panels.map.holds(pointer.x, pointer.y);
  zoomBy(event.altKey ? 1 : factor, event.shiftKey || !inMap ? 1 : factor,
    panels.map.unit(view, pointer.x), panels.map.byte(view, pointer.y));
  hovered = targetAt(pointer.x, pointer.y);
}, { passive: false });

const KEYS = {
  ArrowLeft: () => view.pan(-(view.x1 - view.x0) / 10, 0),
  ArrowRight: () => view.pan((view.x1 - view.x0) / 10, 0),
  ArrowUp: () => view.pan(0, (view.y1 - view.y0) / 10),
  ArrowDown: () => view.pan(0, -(view.y1 - view.y0) / 10),
  "+": () => zoomBy(0.7, 0.7),
  "=": () => zoomBy(0.7, 0.7),
  "-": () => zoomBy(1 / 0.7, 1 / 0.7),
  0: () => view.fit(),
  Home: () => view.fit(),
  1: () => view.fitPool(),
  n: () => step(1),
  p: () => step(-1),
  Enter: () => zoomTo(kept),
  Escape: () => choose(null),
};

overlay.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const action = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
  refresh();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input")) { event.preventDefault(); byId("query").focus(); }
});

byId("query").addEventListener("input", (event) => search(event.target.value));
byId("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); step(event.shiftKey ? -1 : 1); }
  if (event.key === "Escape") { event.target.value = ""; search(""); overlay.focus(); }
});
byId("zoom-in").addEventListener("click", () => zoomBy(0.7, 0.7));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / 0.7, 1 / 0.7));
byId("zoom-fit").addEventListener("click", () => { view.fit(); refresh(); });
byId("zoom-pool").addEventListener("click", () => { view.fitPool(); refresh(); });
for (const radio of document.querySelectorAll('input[name="axis"]')) {
  radio.addEventListener("change", () => { view.setAxis(axes[radio.value]); refresh(); });
}
for (const button of document.querySelectorAll(".goto")) {
  button.addEventListener("click", () => {
    choose({ type: "step", id: Number(button.dataset.step) });
    byId("map-title").scrollIntoView({ block: "start" });
    overlay.focus({ preventScroll: true });
  });
}

function printing(on) {
  document.documentElement.classList.toggle("printing", on);
  layout();
  cancelAnimationFrame(frame);
  paint();
}
window.addEventListener("beforeprint", () => printing(true));
window.addEventListener("afterprint", () => printing(false));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", layout);
new ResizeObserver(layout).observe(overlay);
