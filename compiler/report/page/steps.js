// The table of the largest steps: any column orders it, a row leads to its step in the map.

function stepTable(model, table, choose) {
  const size = (nbytes) => (nbytes ? formatBytes(nbytes) : "");
  const columns = {
    index: (step) => -step,
    use: (step) => model.use.total[step],
    loading: (step) => model.use.loading[step],
    work: (step) => model.steps.work[step],
    wait: (step) => model.steps.wait[step],
    workspace: (step) => model.steps.workspace[step],
  };
  const cells = (step) => [
    [String(step), "number"], [model.steps.name[step], ""], [model.moduleOfStep(step), ""],
    [model.kernelOf(step), ""], [formatBytes(model.use.total[step]), "number"],
    [size(model.use.loading[step]), "number"], [formatTime(model.steps.work[step]), "number"],
    [model.steps.wait[step] ? formatTime(model.steps.wait[step]) : "", "number"],
    [size(model.steps.workspace[step]), "number"],
  ];
  return new SortedTable(table, model.stepCount, columns, cells, (id) => choose({ type: "step", id }));
}
