// The memory map: addresses up, steps or time across, a rectangle for every stay of a buffer or a tile.

/** Edges of a span on the canvas, at whole device pixels and at least one of them apart. */
function spanBox(model, view, panel, ratio, span, first, last) {
  const snap = (value) => Math.round(value * ratio) / ratio;
  const x = snap(panel.x(view, view.axis.ofStep(first)));
  const y = snap(panel.y(view, model.end(span)));
  const w = Math.max(1 / ratio, snap(panel.x(view, view.axis.ofStep(last))) - x);
  const h = Math.max(1 / ratio, snap(panel.y(view, model.offset[span])) - y);
  return { x, y, w, h };
}

/** Draw the map. `matches` holds the owners that a search found, or null; the others then step back. */
function drawMap(pen, panel, view, model, palette, ratio, matches) {
  pen.save();
  pen.beginPath();
  pen.rect(panel.left, panel.top, panel.width, panel.height);
  pen.clip();
  pen.fillStyle = palette.void;
  pen.fillRect(panel.left, panel.top, panel.width, panel.height);
  drawAddressGrid(pen, panel, view, palette);

  const [from, to] = [view.axis.toStep(view.x0), view.axis.toStep(view.x1)];
  const layers = Array.from({ length: 2 * (KINDS.length + 1) }, () => []);
  for (let s = 0; s < model.spanCount; s++) {
    if (model.last[s] < from || model.first[s] > to) continue;
    if (model.end(s) <= view.y0 || model.offset[s] >= view.y1) continue;
    const front = matches === null || matches.has(model.owner[s]);
    const base = front ? KINDS.length + 1 : 0;
    if (model.ready[s] < model.last[s]) layers[base + model.kind[s]].push(s);
    if (model.first[s] < model.ready[s]) layers[base + KINDS.length].push(s);
  }
  const labels = [];
  const dots = new Dots(panel, ratio);
  layers.forEach((spans, layer) => {
    const front = layer > KINDS.length;
    const kind = layer % (KINDS.length + 1);
    const loading = kind === KINDS.length;
    pen.globalAlpha = front ? 1 : 0.13;
    pen.fillStyle = loading ? palette.hatching : palette.kinds[kind].fill;
    for (const s of spans) {
      const box = loading ? spanBox(model, view, panel, ratio, s, model.first[s], model.ready[s])
        : spanBox(model, view, panel, ratio, s, model.ready[s], model.last[s]);
      if (box.w * ratio <= 1 && box.h * ratio <= 1 && !dots.claim(box)) continue;
      const gapX = box.w > 3 ? 1 / ratio : 0;
      const gapY = box.h > 3 ? 1 / ratio : 0;
      pen.fillRect(box.x, box.y, box.w - gapX, box.h - gapY);
      if (front && !loading && box.w > 34 && box.h > 13) labels.push([s, box]);
    }
    if (front && loading) drawIssuePoints(pen, panel, view, model, palette, ratio, spans);
  });
  pen.globalAlpha = 1;
  drawLabels(pen, panel, model, palette, labels);
  drawLevels(pen, panel, view, model, palette);
  pen.restore();
  drawAddressAxis(pen, panel, view, palette);
}

/** Remembers which device pixels already have a dot, so that thousands of them are painted once. */
class Dots {
  constructor(panel, ratio) {
    this.ratio = ratio;
    this.panel = panel;
    this.across = Math.ceil(panel.width * ratio) + 1;
    this.seen = new Uint8Array(this.across * (Math.ceil(panel.height * ratio) + 1));
  }
  claim({ x, y }) {
    const column = Math.round((x - this.panel.left) * this.ratio);
    const row = Math.round((y - this.panel.top) * this.ratio);
    const place = row * this.across + column;
    if (this.seen[place]) return false;
    this.seen[place] = 1;
    return true;
  }
}

function drawIssuePoints(pen, panel, view, model, palette, ratio, spans) {
  pen.fillStyle = palette.hatch;
  for (const s of spans) {
    const box = spanBox(model, view, panel, ratio, s, model.first[s], model.ready[s]);
    if (box.w > 6 && box.h > 3 && model.first[s] > 0) pen.fillRect(box.x, box.y, 2, box.h - 1 / ratio);
  }
}

function drawLabels(pen, panel, model, palette, labels) {
  pen.font = palette.font(LABEL_PIXELS);
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  for (const [s, box] of labels) {
    const left = Math.max(box.x, panel.left) + 4;
    const right = Math.min(box.x + box.w, panel.left + panel.width) - 4;
    const top = Math.max(box.y, panel.top);
    const bottom = Math.min(box.y + box.h, panel.top + panel.height);
    if (bottom - top < 13) continue;
    pen.fillStyle = palette.kinds[model.kind[s]].text;
    const middle = (top + bottom) / 2;
    const size = formatBytes(model.nbytes[s]);
    if (bottom - top > 30) {
      clippedText(pen, model.nameOf(model.owner[s]), left, middle - 7, right - left, LABEL_CHAR);
      clippedText(pen, size, left, middle + 7, right - left, LABEL_CHAR);
    } else {
      clippedText(pen, model.nameOf(model.owner[s]), left, middle, right - left, LABEL_CHAR);
    }
  }
}

/** Ends of the arena, of the bound and of what the budget leaves, as lines across. */
function drawLevels(pen, panel, view, model, palette) {
  const levels = model.bound === model.arena
    ? [[model.arena, `arena ${formatBytes(model.arena)}, the bound`, [], 0.99]]
    : [[model.bound, `bound ${formatBytes(model.bound)}`, [6, 4], 0.52],
      [model.arena, `arena ${formatBytes(model.arena)}`, [], 0.99]];
  if (model.room !== null) levels.push([model.room, `budget leaves ${formatBytes(model.room)}`, [2, 3], 0.76]);
  const shown = levels.filter(([byte]) => byte > view.y0 && byte <= view.y1);
  pen.strokeStyle = palette.mark;
  pen.lineWidth = 1;
  for (const [byte, , dash] of shown) {
    const y = Math.round(panel.y(view, byte)) + 0.5;
    pen.setLineDash(dash);
    pen.beginPath();
    pen.moveTo(panel.left, y);
    pen.lineTo(panel.left + panel.width, y);
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.font = palette.font(11, 600);
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const [byte, label, , place] of shown) {
    const right = panel.left + panel.width * place;
    const width = pen.measureText(label).width + 10;
    const middle = Math.min(panel.top + panel.height - 8, Math.max(panel.top + 8, panel.y(view, byte)));
    pen.fillStyle = palette.paper;
    pen.fillRect(right - width, middle - 8, width, 16);
    pen.fillStyle = palette.ink;
    pen.fillText(label, right - 5, middle + 0.5);
  }
  if (view.y0 >= 1) drawBelow(pen, panel, view, palette);
}

/** How much of the arena lies below what is shown. */
function drawBelow(pen, panel, view, palette) {
  const label = `\u2193 ${formatBytes(Math.round(view.y0))} below`;
  const bottom = panel.top + panel.height;
  pen.fillStyle = palette.paper;
  pen.fillRect(panel.left, bottom - 17, pen.measureText(label).width + 12, 17);
  pen.fillStyle = palette.ink;
  pen.textAlign = "left";
  pen.fillText(label, panel.left + 6, bottom - 8);
}

function addressTicks(panel, view) {
  const spacing = Math.max(1, niceSpacing(((view.y1 - view.y0) * 44) / panel.height));
  const ticks = [];
  for (let byte = Math.ceil(view.y0 / spacing) * spacing; byte <= view.y1; byte += spacing) ticks.push(byte);
  return { spacing, ticks };
}

function drawAddressGrid(pen, panel, view, palette) {
  pen.fillStyle = palette.faint;
  for (const byte of addressTicks(panel, view).ticks) {
    pen.fillRect(panel.left, Math.round(panel.y(view, byte)), panel.width, 1);
  }
}

function drawAddressAxis(pen, panel, view, palette) {
  pen.font = palette.font(11);
  pen.fillStyle = palette.soft;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const { spacing, ticks } = addressTicks(panel, view);
  for (const byte of ticks) {
    const y = Math.min(panel.top + panel.height - 6, Math.max(panel.top + 6, panel.y(view, byte)));
    pen.fillText(byte ? tickBytes(byte, spacing) : "0", panel.left - 8, y);
  }
}

/** An address in the unit of its size, with as many digits as tell the ticks apart. */
function tickBytes(byte, spacing) {
  const [unit, size] = byte >= 1e9 ? ["GB", 1e9] : byte >= 1e6 ? ["MB", 1e6] : byte >= 1e3 ? ["kB", 1e3] : ["B", 1];
  const digits = Math.max(0, Math.ceil(-Math.log10(spacing / size) - 1e-9));
  return `${(byte / size).toFixed(Math.min(9, digits))} ${unit}`;
}
