// The horizontal axis, in steps or in time, and the window on the plan that is shown.

/** Largest i with values[i] <= wanted, in an ascending array; -1 where none is. */
function lastAtMost(values, wanted) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= wanted) low = middle + 1; else high = middle;
  }
  return low - 1;
}

/** One unit a step: every step is as wide as the others. */
class StepAxis {
  constructor(model) {
    this.model = model;
    this.length = Math.max(1, model.stepCount);
    this.least = 2;
    this.title = "step";
  }
  ofStep(step) { return step; }
  toStep(x) { return x; }
  ofTime(time) {
    const { edge, stepCount } = this.model;
    const step = Math.min(stepCount - 1, Math.max(0, lastAtMost(edge, time)));
    const length = edge[step + 1] - edge[step];
    return step + (length > 0 ? Math.min(1, (time - edge[step]) / length) : 0);
  }
  format(x, _spacing) { return grouped(Math.round(x)); }
  spacing(wanted) { return Math.max(1, niceSpacing(wanted)); }
}

const TIME_UNITS = [["s", 1e9], ["ms", 1e6], ["µs", 1e3], ["ns", 1]];

/** One unit a nanosecond. */
class ClockAxis {
  constructor(length) {
    this.length = Math.max(1, length);
    this.least = Math.max(1, this.length / 1e6);
    this.title = "time";
  }
  format(x, spacing) {
    const [unit, size] = TIME_UNITS.find(([, ns]) => this.length >= ns) ?? ["ns", 1];
    return `${(x / size).toFixed(Math.max(0, Math.ceil(-Math.log10(spacing / size) - 1e-9)))} ${unit}`;
  }
  spacing(wanted) { return niceSpacing(wanted); }
}

/** One unit a nanosecond: steps are as wide as they take, waiting included. */
class TimeAxis extends ClockAxis {
  constructor(model) {
    super(model.latency);
    this.model = model;
  }
  ofStep(step) { return this.model.edge[step]; }
  toStep(x) {
    const { edge, stepCount } = this.model;
    const step = Math.min(stepCount - 1, Math.max(0, lastAtMost(edge, x)));
    const length = edge[step + 1] - edge[step];
    return step + (length > 0 ? Math.max(0, (x - edge[step]) / length) : 0);
  }
  ofTime(time) { return time; }
}

/** The smallest of 1, 2, 5 times a power of ten that is at least `wanted`. */
function niceSpacing(wanted) {
  const power = 10 ** Math.floor(Math.log10(wanted));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= wanted);
}

/** The shown part of the plan: [x0, x1) in units of the axis, [y0, y1) in bytes. */
class View {
  static MARGIN = 1.04;

  constructor(model, axis) {
    this.model = model;
    const room = model.room !== null && model.room <= 1.25 * model.arena ? model.room : 0;
    this.top = Math.max(model.arena, room, 1) * View.MARGIN;
    this.setAxis(axis);
  }

  setAxis(axis) {
    if (this.axis === undefined) {
      this.axis = axis;
      this.fit();
      return;
    }
    const steps = [this.axis.toStep(this.x0), this.axis.toStep(this.x1)];
    this.axis = axis;
    const [x0, x1] = steps.map((step) => {
      const whole = Math.min(this.model.stepCount, Math.floor(step));
      const next = Math.min(this.model.stepCount, whole + 1);
      return axis.ofStep(whole) + (step - whole) * (axis.ofStep(next) - axis.ofStep(whole));
    });
    this.show(x0, x1, this.y0, this.y1);
  }

  fit() { [this.x0, this.x1, this.y0, this.y1] = [0, this.axis.length, 0, this.top]; }

  /** Everything across, and up only the addresses whose contents change. */
  fitPool() {
    const [low, high] = this.model.pool;
    this.show(0, this.axis.length, low, high + (View.MARGIN - 1) * (high - low));
  }

  get whole() {
    return this.x0 <= 0 && this.x1 >= this.axis.length && this.y0 <= 0 && this.y1 >= this.top;
  }

  show(x0, x1, y0, y1) {
    [this.x0, this.x1] = clampRange(x0, x1, this.axis.least, this.axis.length);
    [this.y0, this.y1] = clampRange(y0, y1, Math.min(4096, this.top), this.top);
  }

  zoom(factorX, factorY, x, y) {
    this.show(x + (this.x0 - x) * factorX, x + (this.x1 - x) * factorX,
      y + (this.y0 - y) * factorY, y + (this.y1 - y) * factorY);
  }

  pan(dx, dy) { this.show(this.x0 + dx, this.x1 + dx, this.y0 + dy, this.y1 + dy); }

  /** Show a range of steps and bytes in the middle third, as far as there is room around them. */
  centre(firstStep, lastStep, low, high) {
    const x = [this.axis.ofStep(firstStep), this.axis.ofStep(lastStep)];
    const [dx, dy] = [x[1] - x[0], high - low];
    this.show(x[0] - dx, x[1] + dx, low - dy, high + dy);
  }

  /** Keep the zoom where the range is visible at it, and move to it. */
  reveal(firstStep, lastStep, low, high) {
    const x = [this.axis.ofStep(firstStep), this.axis.ofStep(lastStep)];
    const dx = shift(x[0], x[1], this.x0, this.x1);
    const dy = shift(low, high, this.y0, this.y1);
    if (dx || dy) this.pan(dx, dy);
  }
}

/** How far the window [w0, w1) has to move so that the middle of [a, b) is in it. */
function shift(a, b, w0, w1) {
  return b <= w0 || a >= w1 ? (a + b - w0 - w1) / 2 : 0;
}

/** [low, high) with at least `least` and at most `most` of length, moved into [0, most). */
function clampRange(low, high, least, most) {
  const length = Math.min(most, Math.max(least, high - low));
  const middle = (low + high) / 2;
  const begin = Math.min(most - length, Math.max(0, high - low === length ? low : middle - length / 2));
  return [begin, begin + length];
}
