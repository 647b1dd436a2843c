// The side panel: what is pointed at or kept, in words and numbers. All text from the plan is set as text.

const NEIGHBOURS = 6;
const MATCHES = 60;

class Inspector {
  constructor(model, root, matches, choose) {
    Object.assign(this, { model, root, matches, choose });
    this.idle = [...root.childNodes];
    this.shown = "";
  }

  show(target) {
    const key = target ? `${target.type} ${target.id}` : "";
    if (key === this.shown) return;
    this.shown = key;
    const body = !target ? this.idle : target.type === "span" ? this.#span(target.id)
      : target.type === "load" ? this.#load(target.id) : this.#step(target.id);
    this.root.replaceChildren(...body);
  }

  /** One line about a target, for the status line that screen readers speak and for the tip. */
  line(target) {
    const { model } = this;
    if (target.type === "span") {
      const owner = model.owner[target.id];
      const kind = KINDS[model.kind[target.id]].label;
      return [model.nameOf(owner), `${kind}, ${formatBytes(model.nbytes[target.id])}, ${this.#steps(target.id)}`];
    }
    if (target.type === "load") {
      return [`load of ${model.nameOf(model.loads.owner[target.id])}`, formatTime(model.loads.length[target.id])];
    }
    const use = formatBytes(model.use.total[target.id]);
    const wait = model.steps.wait[target.id];
    return [`step ${target.id}: ${model.steps.name[target.id]}`,
      `${use} in use, ${formatTime(model.steps.work[target.id])}${wait ? `, waits ${formatTime(wait)}` : ""}`];
  }

  #steps(span) {
    const { model } = this;
    const { wraps, from, to } = model.stay(span);
    return wraps ? `steps ${model.first[from]} of the run before to ${model.last[to] - 1}`
      : `steps ${model.first[span]} to ${model.last[span] - 1}`;
  }

  #heading(title, module, kind) {
    return [
      element("h3", { textContent: title }),
      element("p", { className: "where", textContent: module || "(no module)" }),
      ...(kind ? [element("p", { className: "chip" }, [element("i", { className: `swatch ${kind.key}` }), kind.label])] : []),
    ];
  }

  #span(span) {
    const { model } = this;
    const owner = model.owner[span];
    const { from, to } = model.stay(span);
    const streamed = KINDS[model.kind[span]].key === "streamed";
    const rows = [
      ["bytes", `${grouped(model.nbytes[span])} (${formatBytes(model.nbytes[span])})`],
      ["addresses", `${hex(model.offset[span])}-${hex(model.end(span))}`, true],
      ["lifetime", this.#steps(span)],
      streamed && ["issued before", `step ${model.first[from]}${from === to ? "" : ", run before"}`],
      streamed && ["deadline", `step ${model.ready[to]}`],
      streamed && ["last use", `step ${model.last[to] - 1}`],
    ];
    return [
      ...this.#heading(model.nameOf(owner), model.moduleOf(owner), KINDS[model.kind[span]]),
      definitions(rows),
      ...this.#held(owner),
      ...this.#neighbours("overwrites", model.overwritten(span), "run before"),
      ...this.#neighbours("overwritten by", model.overwriters(span), "next run"),
    ];
  }

  #held(owner) {
    const held = this.model.owners.holds[owner];
    if (held.length < 2) return [];
    const items = held.slice(0, NEIGHBOURS).map(([text, first, last]) => element("li", {}, [
      element("span", { textContent: this.model.texts[text] }),
      element("span", { textContent: formatBytes(last - first) }),
    ]));
    return [element("h4", { textContent: `holds ${held.length} weights` }), element("ul", {}, items)];
  }

  #neighbours(title, found, otherRun) {
    if (!found.length) return [];
    const { model } = this;
    const items = found.slice(0, NEIGHBOURS).map(([span, shared, other]) => element("li", {}, [
      element("button", { type: "button", textContent: model.nameOf(model.owner[span]),
        onclick: () => this.choose({ type: "span", id: span }) }),
      element("span", { textContent: formatBytes(shared) + (other ? `, ${otherRun}` : "") }),
    ]));
    const rest = found.length - NEIGHBOURS;
    if (rest > 0) items.push(element("li", {}, [element("span", { textContent: `and ${rest} more` })]));
    return [element("h4", { textContent: title }), element("ul", { className: title.split(" ")[0] }, items)];
  }

  #step(step) {
    const { model } = this;
    const { held, loading, total } = model.use;
    const uses = KINDS.map(({ label }, kind) => [label, held[kind][step]]);
    uses.push(["being loaded", loading[step]]);
    return [
      ...this.#heading(model.steps.name[step], model.moduleOfStep(step)),
      definitions([
        ["step", grouped(step)],
        ["kernel", model.kernelOf(step), true],
        ["computes", formatTime(model.steps.work[step])],
        ["waits", model.steps.wait[step] ? formatTime(model.steps.wait[step]) : "no"],
        ["begins at", formatTime(model.start[step])],
        ["reads tiles of", formatBytes(model.steps.weights[step])],
        ["workspace", formatBytes(model.steps.workspace[step])],
      ]),
      element("h4", { textContent: `${formatBytes(total[step])} in use` }),
      definitions(uses.filter(([, nbytes]) => nbytes).map(([label, nbytes]) => [label, formatBytes(nbytes)])),
    ];
  }

  #load(load) {
    const { model } = this;
    const owner = model.loads.owner[load];
    const span = model.spansOf[owner][0];
    return [
      ...this.#heading(`load of ${model.nameOf(owner)}`, model.moduleOf(owner), KINDS[1]),
      definitions([
        ["bytes", `${grouped(model.nbytes[span])} (${formatBytes(model.nbytes[span])})`],
        ["issued before", `step ${model.loads.issue[load]}${model.loads.wraps[load] ? ", run before" : ""}`],
        ["deadline", `step ${model.loads.deadline[load]}`],
        ["read from", formatTime(model.loads.begin[load])],
        ["takes", formatTime(model.loads.length[load])],
      ]),
      ...this.#held(owner),
    ];
  }

  /** The list of what a search found: spans, in order of their first step. */
  list(spans) {
    if (!spans) { this.matches.replaceChildren(); return; }
    const items = spans.slice(0, MATCHES).map((span) => element("li", {}, [
      element("button", { type: "button", textContent: this.model.nameOf(this.model.owner[span]),
        onclick: () => this.choose({ type: "span", id: span }) }),
      element("span", { textContent: formatBytes(this.model.nbytes[span]) }),
    ]));
    const rest = spans.length - MATCHES;
    if (rest > 0) items.push(element("li", {}, [element("span", { textContent: `and ${rest} more` })]));
    this.matches.replaceChildren(element("h4", { textContent: "found" }), element("ul", {}, items));
  }
}
