// The plan as typed columns, and what can be asked of it. Sizes are bytes, times nanoseconds.

const ALIGNMENT = 64;

class PlanModel {
  constructor(data) {
    const { steps, spans, owners, loads } = data;
    this.model = data.model;
    this.arena = data.arena;
    this.bound = data.bound;
    this.room = data.room;
    this.peak = data.peak;
    this.latency = data.latency;
    this.texts = data.texts;
    this.stepCount = steps.name.length;
    this.steps = steps;
    this.owners = owners;
    this.ownerCount = owners.name.length;
    this.loads = loads;
    this.loadCount = loads.owner.length;

    // Cell of step i in time: it waits during [edge[i], start[i]) and computes during [start[i], edge[i + 1]).
    this.edge = new Float64Array(this.stepCount + 1);
    this.start = new Float64Array(this.stepCount);
    for (let i = 0; i < this.stepCount; i++) {
      this.start[i] = this.edge[i] + steps.wait[i];
      this.edge[i + 1] = this.start[i] + steps.work[i];
    }

    this.spanCount = spans.owner.length;
    this.owner = Int32Array.from(spans.owner);
    this.first = Int32Array.from(spans.first);
    this.ready = Int32Array.from(spans.ready);
    this.last = Int32Array.from(spans.last);
    this.offset = Float64Array.from(spans.offset);
    this.nbytes = Float64Array.from(spans.nbytes);
    this.kind = Uint8Array.from(this.owner, (owner) => owners.kind[owner]);

    this.spansOf = Array.from({ length: this.ownerCount }, () => []);
    for (let s = 0; s < this.spanCount; s++) this.spansOf[this.owner[s]].push(s);
    this.order = Int32Array.from({ length: this.spanCount }, (_, s) => s).sort(
      (a, b) => this.first[a] - this.first[b] || this.offset[a] - this.offset[b]);
    this.haystack = owners.name.map((name, o) => {
      const held = owners.holds[o].map(([text]) => this.texts[text]);
      return [name, this.moduleOf(o), ...held].join("\n").toLowerCase();
    });
    this.use = this.#occupancy();
    this.residentNbytes = this.stepCount ? this.use.held[0][0] : 0;
    this.pool = this.#pool();
  }

  /** Addresses [low, high) between which contents change; the whole arena where none do. */
  #pool() {
    let [low, high] = [Infinity, 0];
    for (let s = 0; s < this.spanCount; s++) {
      if (this.first[s] === 0 && this.last[s] === this.stepCount) continue;
      low = Math.min(low, this.offset[s]);
      high = Math.max(high, this.end(s));
    }
    return low < high ? [low, high] : [0, this.arena];
  }

  end(span) { return this.offset[span] + this.nbytes[span]; }
  nameOf(owner) { return this.owners.name[owner]; }
  moduleOf(owner) { return this.texts[this.owners.module[owner]]; }
  moduleOfStep(step) { return this.texts[this.steps.module[step]]; }
  kernelOf(step) { return this.texts[this.steps.kernel[step]]; }

  /** Bytes in use at every step: a column per kind, those on their way, and the sum. */
  #occupancy() {
    const running = (fill) => {
      const column = new Float64Array(this.stepCount + 1);
      fill(column);
      for (let i = 1; i < column.length; i++) column[i] += column[i - 1];
      return column.subarray(0, this.stepCount);
    };
    const taken = (span) => Math.ceil(this.nbytes[span] / ALIGNMENT) * ALIGNMENT;
    const held = KINDS.map((_, kind) => running((column) => {
      for (let s = 0; s < this.spanCount; s++) {
        if (this.kind[s] !== kind) continue;
        column[this.ready[s]] += taken(s);
        column[this.last[s]] -= taken(s);
      }
    }));
    const loading = running((column) => {
      for (let s = 0; s < this.spanCount; s++) {
        column[this.first[s]] += taken(s);
        column[this.ready[s]] -= taken(s);
      }
    });
    const total = Float64Array.from(loading);
    for (const column of held) for (let i = 0; i < total.length; i++) total[i] += column[i];
    return { held, loading, total };
  }

  /** Owners whose name, module or weights contain every word of the query; null for an empty one. */
  search(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return null;
    const found = new Set();
    for (let o = 0; o < this.ownerCount; o++) {
      if (this.spansOf[o].length && words.every((word) => this.haystack[o].includes(word))) found.add(o);
    }
    return found;
  }

  /** Steps in which a span's bytes are taken; pieces of a load that wraps count as one stay. */
  stay(span) {
    const pieces = this.spansOf[this.owner[span]];
    const head = pieces.find((s) => this.first[s] === 0);
    const tail = pieces.find((s) => this.last[s] === this.stepCount && this.ready[s] === this.stepCount);
    const wraps = head !== undefined && tail !== undefined && (span === head || span === tail);
    return wraps ? { wraps, from: tail, to: head } : { wraps: false, from: span, to: span };
  }

  /** What lay in a span's bytes just before it: [span, bytes, in the run before]. */
  overwritten(span) {
    const { from } = this.stay(span);
    return this.#neighbours(from, (s) => this.last[s] <= this.first[from], (s) => this.last[s],
      (s) => this.first[s] >= this.last[from]);
  }

  /** What takes a span's bytes next: [span, bytes, in the next run]. */
  overwriters(span) {
    const { to } = this.stay(span);
    return this.#neighbours(to, (s) => this.first[s] >= this.last[to], (s) => -this.first[s],
      (s) => this.last[s] <= this.first[to]);
  }

  #neighbours(span, inThisRun, nearness, inOther) {
    const found = [];
    let open = [[this.offset[span], this.end(span)]];
    for (const [matches, other] of [[inThisRun, false], [inOther, true]]) {
      const candidates = [];
      for (let s = 0; s < this.spanCount; s++) {
        const shares = this.offset[s] < this.end(span) && this.offset[span] < this.end(s);
        if (s !== span && shares && matches(s)) candidates.push(s);
      }
      candidates.sort((a, b) => nearness(b) - nearness(a));
      for (const s of candidates) {
        let shared = 0;
        const left = [];
        for (const [low, high] of open) {
          const from = Math.max(low, this.offset[s]);
          const to = Math.min(high, this.end(s));
          if (from >= to) { left.push([low, high]); continue; }
          shared += to - from;
          if (low < from) left.push([low, from]);
          if (to < high) left.push([to, high]);
        }
        if (shared) found.push([s, shared, other]);
        open = left;
        if (!open.length) return found;
      }
    }
    return found;
  }
}

/** Spans by cell of a grid over steps and addresses, so that pointing looks at a few of them. */
class SpanIndex {
  static COLUMNS = 64;
  static ROWS = 512;

  constructor(model) {
    this.model = model;
    this.stepsPerCell = Math.max(1, model.stepCount) / SpanIndex.COLUMNS;
    this.bytesPerCell = Math.max(1, model.arena) / SpanIndex.ROWS;
    const counts = new Int32Array(SpanIndex.COLUMNS * SpanIndex.ROWS + 1);
    for (let s = 0; s < model.spanCount; s++) this.#cells(s, (cell) => { counts[cell + 1]++; });
    for (let c = 1; c < counts.length; c++) counts[c] += counts[c - 1];
    this.begin = counts;
    this.items = new Int32Array(counts[counts.length - 1]);
    const next = counts.slice();
    for (let s = 0; s < model.spanCount; s++) this.#cells(s, (cell) => { this.items[next[cell]++] = s; });
  }

  #column(step) { return Math.min(SpanIndex.COLUMNS - 1, Math.max(0, Math.floor(step / this.stepsPerCell))); }
  #row(byte) { return Math.min(SpanIndex.ROWS - 1, Math.max(0, Math.floor(byte / this.bytesPerCell))); }

  #cells(span, visit) {
    const { first, last, offset } = this.model;
    this.#block(first[span], last[span], offset[span], this.model.end(span), visit);
  }

  #block(left, right, low, high, visit) {
    const rows = [this.#row(low), this.#row(high)];
    for (let c = this.#column(left); c <= this.#column(right); c++) {
      for (let r = rows[0]; r <= rows[1]; r++) visit(c * SpanIndex.ROWS + r);
    }
  }

  /** The span at a point, or the nearest one that reaches into the box around it; -1 for none. */
  at(step, byte, stepsAround, bytesAround) {
    const { first, last, offset } = this.model;
    let best = -1;
    let nearest = Infinity;
    this.#block(step - stepsAround, step + stepsAround, byte - bytesAround, byte + bytesAround, (cell) => {
      for (let k = this.begin[cell]; k < this.begin[cell + 1]; k++) {
        const s = this.items[k];
        const across = Math.max(first[s] - step, step - last[s], 0) / (stepsAround || 1);
        const up = Math.max(offset[s] - byte, byte - this.model.end(s), 0) / (bytesAround || 1);
        const far = Math.max(across, up);
        if (far <= 1 && far < nearest) { nearest = far; best = s; }
      }
    });
    return best;
  }
}
