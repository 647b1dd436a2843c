// Two runs on one axis: what the time model says of a run, and one that was measured.

const GUTTER = 122;
const RIGHT = 10;
const LANE = 30;
const READS = 22;
const GAP = 4;
const BETWEEN = 16;
const AXIS_HEIGHT = 24;
const NOTICED = 2000; // nanoseconds from which a wait is one

/** One run as typed columns; times in nanoseconds from its beginning. */
class Run {
  constructor(name, data) {
    this.name = name;
    this.latency = data.latency;
    this.wait = Float64Array.from(data.wait);
    this.start = Float64Array.from(data.start);
    this.end = Float64Array.from(data.end);
    this.begin = this.start.map((start, i) => start - this.wait[i]);
    this.reads = data.reads;
    this.threads = data.reads.thread.reduce((most, thread) => Math.max(most, thread + 1), 0);
  }

  /** The step that waits or computes at a time; -1 for none. */
  stepAt(time) {
    const step = lastAtMost(this.begin, time);
    return step >= 0 && time < this.end[step] ? step : -1;
  }

  readAt(time, thread) {
    const { begin, end, thread: threads } = this.reads;
    return begin.findIndex((from, k) => threads[k] === thread && from <= time && time < end[k]);
  }
}

/** The shown part of the axis: [x0, x1) in nanoseconds. */
class Shown {
  constructor(length) {
    this.axis = new ClockAxis(length);
    this.fit();
  }
  get whole() { return this.x0 <= 0 && this.x1 >= this.axis.length; }
  fit() { this.show(0, this.axis.length); }
  show(x0, x1) { [this.x0, this.x1] = clampRange(x0, x1, this.axis.least, this.axis.length); }
  zoom(factor, x) { this.show(x + (this.x0 - x) * factor, x + (this.x1 - x) * factor); }
  pan(dx) { this.show(this.x0 + dx, this.x1 + dx); }
}

const data = JSON.parse(byId("bench").textContent);
const { steps, texts } = data;
const stepCount = steps.name.length;
const runs = [new Run("predicted", data.predicted), new Run("measured", data.measured)];
const [predicted, measured] = runs;
const view = new Shown(Math.max(...runs.map((run) => run.latency)) * 1.01);
const [base, overlay, tip] = [byId("base"), byId("overlay"), byId("tip")];
const idle = [...byId("details").childNodes];

let ratio = 1;
let lanes = [];
let ruler = null;
let palette = null;
let hovered = null;
let kept = null;
let pointer = null;
let drag = null;
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
  let top = 8;
  lanes = [];
  for (const run of runs) {
    lanes.push({ run, thread: -1, title: `${run.name} compute`, panel: new Panel(GUTTER, top, across, LANE) });
    top += LANE + GAP;
    for (let thread = 0; thread < run.threads; thread++) {
      const title = run === predicted ? "predicted loads" : `measured loader ${thread}`;
      lanes.push({ run, thread, title, panel: new Panel(GUTTER, top, across, READS) });
      top += READS + GAP;
    }
    top += BETWEEN - GAP;
  }
  ruler = new Panel(GUTTER, top - BETWEEN / 2, across, AXIS_HEIGHT);
  byId("plot").style.height = `${ruler.top + ruler.height + 4}px`;
  palette = new Palette(document.documentElement, ratio);
  refresh();
}

function refresh(all = true) {
  stale ||= all;
  frame ||= requestAnimationFrame(paint);
}

function paint() {
  frame = 0;
  if (stale) { stale = false; paintBase(); }
  paintOverlay();
}

function paintBase() {
  const pen = base.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, base.width, base.height);
  for (const lane of lanes) {
    const { panel } = lane;
    pen.fillStyle = palette.void;
    pen.fillRect(panel.left, panel.top, panel.width, panel.height);
    if (lane.thread < 0) drawSteps(pen, lane); else drawReads(pen, lane);
    drawEnd(pen, lane);
    panelTitle(pen, panel, palette, lane.title);
  }
  drawAcross(pen, ruler, view, palette);
}

function drawSteps(pen, { run, panel }) {
  const computing = new Coverage(panel, view);
  const waiting = new Coverage(panel, view);
  const labels = [];
  const from = Math.max(0, lastAtMost(run.begin, view.x0));
  for (let i = from; i < stepCount && run.begin[i] < view.x1; i++) {
    computing.add(run.begin[i], run.end[i]);
    if (run.wait[i]) waiting.add(run.begin[i], run.start[i]);
    const left = panel.x(view, run.start[i]);
    const width = panel.x(view, run.end[i]) - left;
    if (width > 8) labels.push([left, width, steps.name[i]]);
  }
  computing.draw(pen, palette.compute);
  waiting.draw(pen, palette.stall);
  drawCells(pen, panel, palette, labels, palette.onCompute);
}

/** Intervals of a run in which read k is under way; one that serves the next run goes on at the left. */
function readPieces(run, k) {
  const [begin, end] = [run.reads.begin[k], run.reads.end[k]];
  if (run === measured) return [[Math.max(0, begin), Math.min(run.latency, end)]];
  if (begin >= run.latency) return [[begin - run.latency, end - run.latency]];
  return end > run.latency ? [[begin, run.latency], [0, end - run.latency]] : [[begin, end]];
}

function drawReads(pen, { run, thread, panel }) {
  const reading = new Coverage(panel, view);
  const labels = [];
  run.reads.begin.forEach((_, k) => {
    if (run.reads.thread[k] !== thread) return;
    for (const [begin, end] of readPieces(run, k)) {
      if (end < view.x0 || begin > view.x1) continue;
      reading.add(begin, end);
      const left = panel.x(view, begin);
      const width = panel.x(view, end) - left;
      if (width > 8) labels.push([left, width, texts[run.reads.name[k]]]);
    }
  });
  reading.draw(pen, palette.streamed);
  drawCells(pen, panel, palette, labels, palette.kinds[1].text);
}

/** The end of the run, as a line through its lanes. */
function drawEnd(pen, { run, panel }) {
  const x = Math.round(panel.x(view, run.latency));
  if (x < panel.left || x > panel.left + panel.width) return;
  pen.fillStyle = palette.mark;
  pen.fillRect(x, panel.top - 2, 1, panel.height + GAP);
}

function paintOverlay() {
  const pen = overlay.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, overlay.width, overlay.height);
  const shown = kept ?? hovered;
  byId("details").replaceChildren(...(shown ? details(shown) : idle));
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER, 0, ruler.width, ruler.top);
  pen.clip();
  if (kept) outline(pen, kept, 2.5);
  if (hovered && hovered !== kept) outline(pen, hovered, 1.5);
  if (pointer && pointer.x >= GUTTER) {
    pen.globalAlpha = 0.45;
    pen.fillStyle = palette.mark;
    pen.fillRect(Math.round(pointer.x), 0, 1, ruler.top);
    pen.globalAlpha = 1;
  }
  pen.restore();
  showTip();
}

function outline(pen, target, width) {
  pen.strokeStyle = palette.mark;
  pen.lineWidth = width;
  for (const { run, thread, panel } of lanes) {
    const cells = [];
    if (target.type === "step" && thread < 0) cells.push([run.begin[target.id], run.end[target.id]]);
    if (target.type === "read" && target.run === run && run.reads.thread[target.id] === thread) {
      cells.push(...readPieces(run, target.id));
    }
    for (const [begin, end] of cells) {
      const left = panel.x(view, begin);
      pen.strokeRect(left, panel.top, Math.max(1, panel.x(view, end) - left), panel.height);
    }
  }
}

function sentence(target) {
  if (target.type === "read") {
    const { reads, name } = target.run;
    return [`${name} read of ${texts[reads.name[target.id]]}`,
      `${formatBytes(reads.nbytes[target.id])} in ${formatTime(reads.end[target.id] - reads.begin[target.id])}`];
  }
  const { id } = target;
  const waits = measured.wait[id] >= NOTICED ? `, waited ${formatTime(measured.wait[id])}` : "";
  return [`step ${id}: ${steps.name[id]}`,
    `predicted ${formatTime(length(predicted, id))}, measured ${formatTime(steps.typical[id])}${waits}`];
}

const length = (run, step) => run.end[step] - run.start[step];

function details(target) {
  const [title, told] = sentence(target);
  if (target.type === "read") {
    const { reads } = target.run;
    const nanoseconds = reads.end[target.id] - reads.begin[target.id];
    return [element("h3", { textContent: title }), definitions([
      ["bytes", `${grouped(reads.nbytes[target.id])} (${formatBytes(reads.nbytes[target.id])})`],
      ["takes", formatTime(nanoseconds)],
      ["at", formatTime(Math.max(0, reads.begin[target.id]))],
      nanoseconds && ["speed", `${formatBytes(Math.round(reads.nbytes[target.id] / nanoseconds * 1e9))}/s`],
    ])];
  }
  const { id } = target;
  const row = (term, of) => [term, `${of(predicted)} / ${of(measured)}`];
  return [
    element("h3", { textContent: title }),
    element("p", { className: "where", textContent: texts[steps.module[id]] || "(no module)" }),
    definitions([
      ["kernel", texts[steps.kernel[id]], true],
      ["median", formatTime(steps.typical[id])],
      row("computes", (run) => formatTime(length(run, id))),
      row("waits", (run) => (run.wait[id] >= NOTICED ? formatTime(run.wait[id]) : "no")),
      row("begins", (run) => formatTime(run.start[id])),
    ]),
    element("p", { className: "hint", textContent: "predicted / measured in this run" }),
  ];
}

function showTip() {
  tip.hidden = !hovered || !pointer || drag?.moved;
  if (tip.hidden) return;
  const [title, rest] = sentence(hovered);
  tip.replaceChildren(title, element("small", { textContent: rest }));
  const { clientWidth: width, clientHeight: height } = overlay;
  const left = pointer.x + 14 + tip.offsetWidth > width ? pointer.x - 14 - tip.offsetWidth : pointer.x + 14;
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${Math.max(0, Math.min(height - tip.offsetHeight - 4, pointer.y + 14))}px`;
}

function targetAt({ x, y }) {
  const lane = lanes.find(({ panel }) => panel.holds(x, y));
  if (!lane) return null;
  const time = lane.panel.unit(view, x);
  if (lane.thread < 0) {
    const id = lane.run.stepAt(time);
    return id < 0 ? null : { type: "step", id };
  }
  const id = lane.run.readAt(time, lane.thread);
  return id < 0 ? null : { type: "read", run: lane.run, id };
}

function choose(target) {
  kept = target;
  hovered = null;
  if (target) {
    byId("spoken").textContent = sentence(target).join("; ");
    const run = target.run ?? measured;
    const [begin, end] = target.type === "step" ? [run.begin[target.id], run.end[target.id]]
      : readPieces(run, target.id)[0];
    if (end < view.x0 || begin > view.x1) view.pan((begin + end - view.x0 - view.x1) / 2);
  }
  refresh();
}

function zoomTo(target) {
  if (target?.type !== "step") return;
  const begin = Math.min(...runs.map((run) => run.begin[target.id]));
  const end = Math.max(...runs.map((run) => run.end[target.id]));
  view.show(begin - (end - begin), end + (end - begin));
}

const zoomBy = (factor) => { view.zoom(factor, (view.x0 + view.x1) / 2); refresh(); };
const walk = (direction) => {
  const at = kept?.type === "step" ? kept.id + direction : direction > 0 ? 0 : stepCount - 1;
  if (stepCount) choose({ type: "step", id: (at + stepCount) % stepCount });
};

function place(event) {
  const edge = overlay.getBoundingClientRect();
  return { x: event.clientX - edge.left, y: event.clientY - edge.top };
}

overlay.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  overlay.setPointerCapture(event.pointerId);
  pointer = place(event);
  drag = { ...pointer, moved: false };
});

overlay.addEventListener("pointermove", (event) => {
  const now = place(event);
  if (drag && (drag.moved || Math.abs(now.x - drag.x) > 3)) {
    drag.moved = true;
    overlay.classList.add("panning");
    view.pan(ruler.unit(view, pointer.x) - ruler.unit(view, now.x));
    hovered = null;
    pointer = now;
    refresh();
    return;
  }
  pointer = now;
  hovered = targetAt(now);
  refresh(false);
});

overlay.addEventListener("pointerup", (event) => {
  if (drag && !drag.moved) choose(targetAt(place(event)));
  drag = null;
  overlay.classList.remove("panning");
  refresh();
});
overlay.addEventListener("pointercancel", () => { drag = null; overlay.classList.remove("panning"); refresh(); });
overlay.addEventListener("pointerleave", () => { pointer = hovered = null; refresh(false); });
overlay.addEventListener("dblclick", (event) => { zoomTo(targetAt(place(event))); refresh(); });

overlay.addEventListener("wheel", (event) => {
  // With nothing left to zoom out of, the wheel scrolls the page, as it does anywhere else.
  const delta = event.deltaY || event.deltaX;
  if (event.ctrlKey === false && delta > 0 && view.whole) return;
  event.preventDefault();
  pointer = place(event);
  view.zoom(Math.exp(Math.max(-1, Math.min(1, delta * 0.0015))), ruler.unit(view, pointer.x));
  hovered = targetAt(pointer);
  refresh();
}, { passive: false });

const KEYS = {
  ArrowLeft: () => view.pan(-(view.x1 - view.x0) / 10),
  ArrowRight: () => view.pan((view.x1 - view.x0) / 10),
  "+": () => zoomBy(0.7),
  "=": () => zoomBy(0.7),
  "-": () => zoomBy(1 / 0.7),
  0: () => view.fit(),
  Home: () => view.fit(),
  n: () => walk(1),
  p: () => walk(-1),
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

byId("zoom-in").addEventListener("click", () => zoomBy(0.7));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / 0.7));
byId("zoom-fit").addEventListener("click", () => { view.fit(); refresh(); });

const difference = (step) => steps.typical[step] - length(predicted, step);
const signed = (nanoseconds) => `${nanoseconds < 0 ? "\u2212" : "+"}${formatTime(Math.abs(nanoseconds))}`;
const shownWait = (nanoseconds) => (nanoseconds >= NOTICED ? formatTime(nanoseconds) : "");
new SortedTable(byId("steps"), stepCount, {
  index: (step) => -step,
  predicted: (step) => length(predicted, step),
  measured: (step) => steps.typical[step],
  difference: (step) => Math.abs(difference(step)),
  ratio: (step) => steps.typical[step] / (length(predicted, step) || 1),
  expected: (step) => predicted.wait[step],
  waited: (step) => measured.wait[step],
}, (step) => [
  [String(step), "number"], [steps.name[step], ""], [texts[steps.module[step]], ""],
  [texts[steps.kernel[step]], ""], [formatTime(length(predicted, step)), "number"],
  [formatTime(steps.typical[step]), "number"], [signed(difference(step)), "number"],
  [length(predicted, step) ? (steps.typical[step] / length(predicted, step)).toFixed(2) : "", "number"],
  [shownWait(predicted.wait[step]), "number"], [shownWait(measured.wait[step]), "number"],
], (id) => { choose({ type: "step", id }); overlay.focus(); });

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
