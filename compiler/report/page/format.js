// Numbers as text. Sizes are bytes, times nanoseconds.

const grouped = (number) => number.toLocaleString("en-US");

function formatBytes(nbytes) {
  let size = nbytes;
  for (const unit of ["B", "kB", "MB"]) {
    if (Math.abs(size) < 999.5) return `${Number(size.toPrecision(3))} ${unit}`;
    size /= 1000;
  }
  return `${Number(size.toPrecision(4))} GB`;
}

function formatTime(ns) {
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  if (ns < 1e6) return `${Number((ns / 1e3).toPrecision(3))} µs`;
  if (ns < 1e9) return `${Number((ns / 1e6).toPrecision(3))} ms`;
  return `${Number((ns / 1e9).toPrecision(3))} s`;
}

const hex = (address) => `0x${address.toString(16)}`;
