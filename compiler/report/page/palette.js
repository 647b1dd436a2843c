// Colours and type, read from the style sheet, so that the theme is decided in one place.

const KINDS = [
  { key: "resident", label: "resident weights" },
  { key: "streamed", label: "streamed weights" },
  { key: "activation", label: "activation" },
  { key: "state", label: "state" },
  { key: "scratch", label: "scratch" },
];

class Palette {
  constructor(element, ratio) {
    const style = getComputedStyle(element);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    for (const name of ["paper", "panel", "ink", "soft", "line", "faint", "accent", "void", "stall",
      "compute", "loading", "hatch", "mark", "streamed"]) this[name] = colour(name);
    this.onCompute = colour("on-compute");
    this.kinds = KINDS.map(({ key }) => ({ fill: colour(key), text: colour(`on-${key}`) }));
    this.family = style.fontFamily;
    this.hatching = this.#hatching(ratio);
  }

  font(pixels, weight = 400) { return `${weight} ${pixels}px ${this.family}`; }

  #hatching(ratio) {
    const size = Math.max(4, Math.round(6 * ratio));
    const tile = document.createElement("canvas");
    tile.width = tile.height = size;
    const pen = tile.getContext("2d");
    pen.fillStyle = this.loading;
    pen.fillRect(0, 0, size, size);
    pen.strokeStyle = this.hatch;
    pen.lineWidth = ratio;
    pen.beginPath();
    for (const begin of [-size, 0, size]) {
      pen.moveTo(begin - 1, size + 1);
      pen.lineTo(begin + size + 1, -1);
    }
    pen.stroke();
    const pattern = pen.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(1 / ratio));
    return pattern;
  }
}

/** Draw text that fits into `width` pixels, shortened at its end; nothing where too little would be left. */
function clippedText(pen, text, x, y, width, charWidth) {
  const room = Math.floor(width / charWidth);
  if (room >= text.length) pen.fillText(text, x, y);
  else if (room >= 5) pen.fillText(`${text.slice(0, room - 1)}…`, x, y);
}
