// Below the map, on its axis: bytes in use, what computes, what is read, where steps wait.

/** The step with most bytes in use among those that a column of pixels covers. */
function fullestStep(model, from, to) {
  let best = from;
  for (let i = from + 1; i < to; i++) if (model.use.total[i] > model.use.total[best]) best = i;
  return best;
}

/** Bytes in use above the resident weights, which never change, as stacked columns, one a pixel, with the
 * bound and the arena as lines. */
function drawUse(pen, panel, view, model, palette) {
  pen.fillStyle = palette.void;
  pen.fillRect(panel.left, panel.top, panel.width, panel.height);
  const floor = model.residentNbytes;
  const ceiling = Math.max(floor + 1, floor + (model.arena - floor) * View.MARGIN);
  const height = (nbytes) => (nbytes / (ceiling - floor)) * panel.height;
  const columns = Math.floor(panel.width);
  const steps = new Int32Array(columns);
  for (let c = 0; c < columns; c++) {
    const from = Math.floor(view.axis.toStep(panel.unit(view, panel.left + c)));
    const to = Math.ceil(view.axis.toStep(panel.unit(view, panel.left + c + 1)));
    const clamp = (step) => Math.max(0, Math.min(model.stepCount - 1, step));
    steps[c] = model.stepCount ? fullestStep(model, clamp(from), clamp(to - 1) + 1) : -1;
  }
  const layers = [
    [model.use.held[1], palette.kinds[1].fill],
    [model.use.loading, palette.hatching],
    ...[2, 4, 3].map((kind) => [model.use.held[kind], palette.kinds[kind].fill]),
  ];
  const base = new Float64Array(columns);
  for (const [column, fill] of layers) {
    pen.fillStyle = fill;
    for (let begin = 0, end; begin < columns; begin = end) {
      end = begin + 1;
      if (steps[begin] < 0) continue;
      while (end < columns && steps[end] === steps[begin]) end++;
      const nbytes = column[steps[begin]];
      if (!nbytes) continue;
      const low = Math.round(panel.top + panel.height - height(base[begin]));
      const high = Math.round(panel.top + panel.height - height(base[begin] + nbytes));
      if (low > high) pen.fillRect(panel.left + begin, high, end - begin, low - high);
      base.fill(base[begin] + nbytes, begin, end);
    }
  }
  for (const [nbytes, dash] of [[model.bound, [6, 4]], [model.arena, []]]) {
    const y = Math.round(panel.top + panel.height - height(nbytes - floor)) + 0.5;
    pen.strokeStyle = palette.mark;
    pen.setLineDash(dash);
    pen.beginPath();
    pen.moveTo(panel.left, y);
    pen.lineTo(panel.left + panel.width, y);
    pen.stroke();
  }
  pen.setLineDash([]);
  panelTitle(pen, panel, palette, "in use");
  pen.fillText(formatBytes(ceiling), panel.left - 8, panel.top + 6);
  pen.fillText(formatBytes(floor), panel.left - 8, panel.top + panel.height - 6);
}

/** Computing and waiting: where a column of pixels has both, each has its share of the height. */
function drawComputing(pen, panel, view, model, palette) {
  pen.fillStyle = palette.void;
  pen.fillRect(panel.left, panel.top, panel.width, panel.height);
  const { axis } = view;
  const covered = new Coverage(panel, view);
  const waiting = new Coverage(panel, view);
  const labels = [];
  const [from, to] = visibleSteps(view, model);
  for (let i = from; i < to; i++) {
    const [begin, end] = [axis.ofStep(i), axis.ofStep(i + 1)];
    covered.add(begin, end);
    const start = model.steps.wait[i] ? axis.ofTime(model.start[i]) : begin;
    if (start > begin) waiting.add(begin, Math.min(start, end));
    const left = panel.x(view, start);
    const width = panel.x(view, end) - left;
    if (width > 8) labels.push([left, width, model.steps.name[i]]);
  }
  covered.draw(pen, palette.compute);
  waiting.draw(pen, palette.stall);
  drawCells(pen, panel, palette, labels, palette.onCompute);
  panelTitle(pen, panel, palette, "compute");
}

/** Reads, one after another; one that serves the next run goes on at the left, where that run begins. */
function drawReading(pen, panel, view, model, palette) {
  pen.fillStyle = palette.void;
  pen.fillRect(panel.left, panel.top, panel.width, panel.height);
  const reading = new Coverage(panel, view);
  const labels = [];
  for (let k = 0; k < model.loadCount; k++) {
    for (const [begin, end] of loadPieces(model, k)) {
      const [from, to] = [view.axis.ofTime(begin), view.axis.ofTime(end)];
      if (to < view.x0 || from > view.x1) continue;
      reading.add(from, to);
      const left = panel.x(view, from);
      const width = panel.x(view, to) - left;
      if (width > 8) labels.push([left, width, model.nameOf(model.loads.owner[k])]);
    }
  }
  reading.draw(pen, palette.streamed);
  drawCells(pen, panel, palette, labels, palette.kinds[1].text);
  panelTitle(pen, panel, palette, "loads");
}

/** When load k is read, as intervals within one run. */
function loadPieces(model, k) {
  const begin = model.loads.begin[k];
  const end = begin + model.loads.length[k];
  if (begin >= model.latency) return [[begin - model.latency, end - model.latency]];
  if (end > model.latency) return [[begin, model.latency], [0, end - model.latency]];
  return [[begin, end]];
}

function visibleSteps(view, model) {
  const from = Math.max(0, Math.floor(view.axis.toStep(view.x0)));
  return [from, Math.min(model.stepCount, Math.ceil(view.axis.toStep(view.x1)))];
}
