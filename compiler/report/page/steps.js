// The table of the largest steps: any column orders it, a row leads to its step in the map.

class StepTable {
  constructor(model, table, choose) {
    this.model = model;
    this.body = table.tBodies[0];
    this.rows = this.body.rows.length;
    this.columns = {
      index: (step) => -step,
      use: (step) => model.use.total[step],
      loading: (step) => model.use.loading[step],
      work: (step) => model.steps.work[step],
      wait: (step) => model.steps.wait[step],
      workspace: (step) => model.steps.workspace[step],
    };
    this.headings = [...table.querySelectorAll("th[data-sort]")];
    for (const heading of this.headings) {
      heading.tabIndex = 0;
      heading.addEventListener("click", () => this.sort(heading));
      heading.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.sort(heading); }
      });
    }
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-step]");
      if (row) choose({ type: "step", id: Number(row.dataset.step) });
    });
  }

  sort(heading) {
    for (const other of this.headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", heading.dataset.sort === "index" ? "ascending" : "descending");
    const value = this.columns[heading.dataset.sort];
    const order = Array.from({ length: this.model.stepCount }, (_, step) => step)
      .sort((a, b) => value(b) - value(a) || a - b);
    this.body.replaceChildren(...order.slice(0, this.rows).map((step) => this.#row(step)));
  }

  #row(step) {
    const { model } = this;
    const size = (nbytes) => (nbytes ? formatBytes(nbytes) : "");
    const cells = [
      [String(step), "number"], [model.steps.name[step], ""], [model.moduleOfStep(step), ""],
      [model.kernelOf(step), ""], [formatBytes(model.use.total[step]), "number"],
      [size(model.use.loading[step]), "number"], [formatTime(model.steps.work[step]), "number"],
      [model.steps.wait[step] ? formatTime(model.steps.wait[step]) : "", "number"],
      [size(model.steps.workspace[step]), "number"],
    ];
    const row = element("tr", {}, cells.map(([textContent, className]) => element("td", { textContent, className })));
    row.dataset.step = String(step);
    return row;
  }
}
