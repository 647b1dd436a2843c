// What lanes over time are drawn with: panels, shares of pixel columns, labelled cells, the axis below.

const LABEL_PIXELS = 11;
const LABEL_CHAR = 6.1;

/** A rectangle of the canvas, in CSS pixels, with the mapping from the plan's coordinates. */
class Panel {
  constructor(left, top, width, height) { Object.assign(this, { left, top, width, height }); }
  x(view, unit) { return this.left + ((unit - view.x0) / (view.x1 - view.x0)) * this.width; }
  y(view, byte) { return this.top + this.height - ((byte - view.y0) / (view.y1 - view.y0)) * this.height; }
  unit(view, x) { return view.x0 + ((x - this.left) / this.width) * (view.x1 - view.x0); }
  byte(view, y) { return view.y0 + ((this.top + this.height - y) / this.height) * (view.y1 - view.y0); }
  holds(x, y) {
    return x >= this.left && x < this.left + this.width && y >= this.top && y < this.top + this.height;
  }
}

/** Share of every pixel column that a set of intervals covers. */
class Coverage {
  constructor(panel, view) {
    this.panel = panel;
    this.view = view;
    this.columns = new Float64Array(Math.ceil(panel.width));
  }
  add(begin, end) {
    const { panel, view, columns } = this;
    const from = Math.max(0, panel.x(view, begin) - panel.left);
    const to = Math.min(columns.length, panel.x(view, end) - panel.left);
    if (to <= from) return;
    const [first, last] = [Math.floor(from), Math.min(columns.length - 1, Math.floor(to))];
    if (first === last) { columns[first] += to - from; return; }
    columns[first] += first + 1 - from;
    for (let c = first + 1; c < last; c++) columns[c] = 1;
    columns[last] += to - last;
  }
  /** Draw every column as a bar from the panel's floor, as high as its share. */
  draw(pen, fill) {
    const { panel, columns } = this;
    pen.fillStyle = fill;
    for (let begin = 0, end; begin < columns.length; begin = end) {
      const share = Math.min(1, columns[begin]);
      end = begin + 1;
      while (end < columns.length && Math.abs(Math.min(1, columns[end]) - share) < 0.01) end++;
      const height = share > 0 ? Math.max(1, share * panel.height) : 0;
      if (height) pen.fillRect(panel.left + begin, panel.top + panel.height - height, end - begin, height);
    }
  }
}

function drawCells(pen, panel, palette, cells, ink) {
  pen.save();
  pen.beginPath();
  pen.rect(panel.left, panel.top, panel.width, panel.height);
  pen.clip();
  pen.fillStyle = palette.paper;
  for (const [left, width] of cells) pen.fillRect(Math.round(left + width) - 1, panel.top, 1, panel.height);
  pen.fillStyle = ink;
  pen.font = palette.font(LABEL_PIXELS);
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  for (const [left, width, name] of cells) {
    const from = Math.max(left, panel.left) + 4;
    const to = Math.min(left + width, panel.left + panel.width) - 4;
    clippedText(pen, name, from, panel.top + panel.height / 2 + 0.5, to - from, LABEL_CHAR);
  }
  pen.restore();
}

function panelTitle(pen, panel, palette, text) {
  pen.font = palette.font(11);
  pen.fillStyle = palette.soft;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.fillText(text, panel.left - 8, panel.top + panel.height / 2);
}

function drawAcross(pen, panel, view, palette) {
  const spacing = view.axis.spacing(((view.x1 - view.x0) * 84) / panel.width);
  pen.font = palette.font(11);
  pen.fillStyle = palette.soft;
  pen.textBaseline = "top";
  pen.textAlign = "center";
  for (let unit = Math.ceil(view.x0 / spacing) * spacing; unit <= view.x1; unit += spacing) {
    const x = panel.x(view, unit);
    pen.fillRect(Math.round(x), panel.top, 1, 4);
    const text = view.axis.format(unit, spacing);
    const half = pen.measureText(text).width / 2;
    pen.fillText(text, Math.min(panel.left + panel.width - half, Math.max(panel.left + half, x)), panel.top + 6);
  }
  pen.textAlign = "right";
  pen.fillText(view.axis.title, panel.left - 8, panel.top + 6);
}
