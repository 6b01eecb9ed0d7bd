// The similarity matrix, the distributions and the reliability diagram.

class MatrixView {
  constructor(canvas, { onPair, onPin }) {
    Object.assign(this, { canvas, onPair, onPin });
    this.values = unpack(data.matrix.values, Int16Array);
    this.side = Math.round(Math.sqrt(this.values.length));
    this.size = data.matrix.binSize;
    this.within = data.matrix.pairs ? unpack(data.matrix.pairs, Uint16Array) : null;
    this.cell = null;
    this.margin = { left: 52, top: 8, right: 74, bottom: 40 };
    const known = Array.from(this.values).filter((v) => v !== NONE).sort((a, b) => a - b);
    const at = (share) => (known[Math.floor(share * (known.length - 1))] || 0) / 10000;
    this.range = [at(0.01), Math.max(at(0.998), at(0.01) + 0.01)];
    new ResizeObserver(() => this.paint()).observe(canvas);
    this.listen();
  }

  // The two places of a cell and their similarity; null for a cell without a pair.
  pairOf(row, column) {
    const i = row * this.side + column;
    if (this.values[i] === NONE) return null;
    const [a, b] = this.within ? [this.within[2 * i], this.within[2 * i + 1]] : [0, 0];
    return [row * this.size + a, column * this.size + b, this.values[i] / 10000];
  }

  // Where the squares are drawn, in CSS pixels.
  plot() {
    const { left, top, right, bottom } = this.margin;
    const length = Math.max(20, Math.min(this.canvas.clientWidth - left - right,
      this.canvas.clientHeight - top - bottom));
    return { left, top, length };
  }

  paint() {
    const { context } = fitCanvas(this.canvas);
    const { left, top, length } = this.plot();
    if (!this.side) return;
    if (!this.image) this.image = this.render();
    context.imageSmoothingEnabled = length < this.side;
    context.drawImage(this.image, left, top, length, length);
    const quiet = style('--quiet');
    context.strokeStyle = quiet;
    context.fillStyle = quiet;
    context.lineWidth = 1;
    context.strokeRect(left - 0.5, top - 0.5, length + 1, length + 1);
    context.font = '12px system-ui, sans-serif';
    const last = Number(ids[count - 1]);
    const step = Math.max(1, roundNumber(Math.max(last, 1) / 4));
    for (let id = 0; id <= last; id += step) {
      const at = length * (id + 0.5) / (last + 1);
      context.fillRect(left + at, top + length, 1, 5);
      context.fillRect(left - 5, top + at, 5, 1);
      context.textAlign = 'center';
      context.fillText(id, left + at, top + length + 18);
      context.textAlign = 'right';
      context.fillText(id, left - 8, top + at + 4);
    }
    context.textAlign = 'center';
    context.fillText('keyframe', left + length / 2, top + length + 35);
    // where one source ends and the next begins
    context.strokeStyle = style('--text');
    context.globalAlpha = 0.55;
    context.setLineDash([3, 3]);
    context.beginPath();
    for (let i = 1, n = 0; i < count && n < 40; i += 1) {
      if (sourceOf[i] === sourceOf[i - 1]) continue;
      n += 1;
      const at = length * i / count;
      context.moveTo(left + at, top);
      context.lineTo(left + at, top + length);
      context.moveTo(left, top + at);
      context.lineTo(left + length, top + at);
    }
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
    this.paintBar(context, left + length + 16, top, length);
    if (this.cell) {
      const [row, column] = this.cell;
      const each = length / this.side;
      context.strokeStyle = style('--text');
      context.lineWidth = 1;
      context.strokeRect(left + column * each - 2.5, top + row * each - 2.5, each + 5, each + 5);
    }
  }

  paintBar(context, x, y, length) {
    const bar = context.createLinearGradient(0, y + length, 0, y);
    for (let i = 0; i <= 8; i += 1) bar.addColorStop(i / 8, rgb(viridis(i / 8)));
    context.fillStyle = bar;
    context.fillRect(x, y, 12, length);
    context.fillStyle = style('--quiet');
    context.textAlign = 'left';
    for (let i = 0; i <= 4; i += 1) {
      const value = this.range[0] + (this.range[1] - this.range[0]) * i / 4;
      context.fillText(fixed(value, 2), x + 16, y + length * (1 - i / 4) + (i === 4 ? 10 : 4));
    }
  }

  // The squares, one pixel each.
  render() {
    const image = document.createElement('canvas');
    image.width = image.height = this.side;
    const pixels = new ImageData(this.side, this.side);
    const [low, high] = this.range;
    const colours = Array.from({ length: 256 }, (_, i) => viridis(i / 255));
    for (let i = 0; i < this.values.length; i += 1) {
      if (this.values[i] === NONE) continue;
      const share = (this.values[i] / 10000 - low) / (high - low);
      const [r, g, b] = colours[Math.round(255 * clamp(share, 0, 1))];
      pixels.data.set([r, g, b, 255], 4 * i);
    }
    image.getContext('2d').putImageData(pixels, 0, 0);
    return image;
  }

  select(row, column) {
    this.cell = row === null ? null : [row, column];
    this.paint();
    this.onPair(this.cell && this.pairOf(row, column), this.cell);
  }

  listen() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const { left, top, length } = this.plot();
      const column = Math.floor((event.clientX - box.left - left) / length * this.side);
      const row = Math.floor((event.clientY - box.top - top) / length * this.side);
      const inside = row >= 0 && column >= 0 && row < this.side && column < this.side;
      return inside ? [row, column] : null;
    };
    canvas.addEventListener('pointermove', (event) => {
      const cell = at(event);
      if (cell) this.select(...cell);
    });
    const pin = () => {
      const pair = this.cell && this.pairOf(...this.cell);
      if (pair) this.onPin(pair);
    };
    canvas.addEventListener('click', (event) => {
      const cell = at(event);
      if (!cell) return;
      this.select(...cell);
      pin();
    });
    canvas.addEventListener('keydown', (event) => {
      const by = event.shiftKey ? 10 : 1;
      const moves = {
        ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by],
      };
      if (!this.side || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === 'Enter') pin();
      else if (event.key === 'Escape') this.select(null);
      else if (moves[event.key]) {
        const [row, column] = this.cell || [0, 0];
        const [down, right] = this.cell ? moves[event.key] : [0, 0];
        this.select(clamp(row + down, 0, this.side - 1), clamp(column + right, 0, this.side - 1));
      } else return;
      event.preventDefault();
    });
  }
}

const CHART = { width: 640, height: 270, left: 34, right: 12, top: 10, bottom: 40 };

// Axes of a chart with x from `low` to `high`.
function axes(low, high, step, digits, title) {
  const { width, height, left, right, top, bottom } = CHART;
  const x = (value) => left + (value - low) / (high - low) * (width - left - right);
  const parts = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9; value += step) {
    parts.push(svg('line', {
      class: 'grid', x1: x(value), x2: x(value), y1: top, y2: height - bottom,
    }));
    parts.push(svg('text', {
      x: x(value), y: height - bottom + 17, 'text-anchor': 'middle',
      text: fixed(Math.abs(value) < 1e-9 ? 0 : value, digits),
    }));
  }
  parts.push(svg('path', {
    class: 'axis', d: `M${left} ${top}V${height - bottom}H${width - right}`,
  }));
  parts.push(svg('text', {
    x: (left + width - right) / 2, y: height - 5, 'text-anchor': 'middle', text: title,
  }));
  return { x, parts };
}

class DistributionView {
  constructor(box, { legend, told }) {
    Object.assign(this, { box, legend, told });
    this.counted = 'best';
    this.threshold = null;
    box.addEventListener('pointermove', (event) => {
      const picture = box.querySelector('svg').getBoundingClientRect();
      const share = (event.clientX - picture.left) / picture.width * CHART.width;
      const inside = (share - CHART.left) / (CHART.width - CHART.left - CHART.right);
      this.moveTo(this.low + clamp(inside, 0, 1) * (this.high - this.low));
    });
    box.addEventListener('keydown', (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.moveTo(this.threshold + by * (event.shiftKey ? 10 : 1) * 2 / data.histograms.bins);
    });
    this.draw();
  }

  draw() {
    const bins = data.histograms.bins;
    const counts = data.histograms[this.counted];
    this.kinds = KINDS.filter((kind) => counts[kind].some((n) => n > 0));
    this.counts = counts;
    const used = [];
    for (let b = 0; b < bins; b += 1) if (this.kinds.some((k) => counts[k][b])) used.push(b);
    const edge = (b) => -1 + 2 * b / bins;
    this.low = used.length ? Math.floor(edge(used[0]) * 10) / 10 : 0;
    this.high = used.length ? Math.min(1, Math.ceil(edge(used[used.length - 1] + 1) * 10) / 10) : 1;
    const { x, parts } = axes(this.low, this.high, this.high - this.low > 1 ? 0.2 : 0.1, 1,
      'similarity');
    this.x = x;
    // Each kind has an area of its own: there are always far more pairs of other places. Bins
    // side by side are taken together where they are many.
    const group = this.high - this.low > 0.6 ? 4 : 2;
    let most = 0;
    const shares = {};
    for (const kind of this.kinds) {
      const total = counts[kind].reduce((a, b) => a + b, 0);
      shares[kind] = [];
      for (let b = 0; b < bins; b += group) {
        shares[kind].push(counts[kind].slice(b, b + group).reduce((a, c) => a + c, 0) / total);
      }
      most = Math.max(most, ...shares[kind]);
    }
    const base = CHART.height - CHART.bottom;
    const y = (share) => base - share / most * (base - CHART.top - 6);
    for (const kind of this.kinds) {
      const first = shares[kind].findIndex((s) => s > 0);
      const end = shares[kind].length - [...shares[kind]].reverse().findIndex((s) => s > 0);
      let d = `M${x(edge(first * group)).toFixed(1)} ${base}`;
      for (let i = first; i < end; i += 1) {
        d += `V${y(shares[kind][i]).toFixed(1)}H${x(edge((i + 1) * group)).toFixed(1)}`;
      }
      d += `V${base}`;
      parts.push(svg('path', { class: `area ${kind}`, d }), svg('path', { class: `edge ${kind}`, d }));
    }
    parts.push(svg('text', {
      x: 12, y: (CHART.top + base) / 2, 'text-anchor': 'middle', text: 'share',
      transform: `rotate(-90 12 ${(CHART.top + base) / 2})`,
    }));
    this.line = svg('line', { class: 'threshold', y1: CHART.top, y2: base });
    const names = this.kinds.map((k) => KIND_NAMES[k]).join(', ');
    this.box.replaceChildren(svg('svg', {
      class: 'chart', viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: 'img',
      'aria-label': `Histogram of similarities: ${names}`,
    }, ...parts, this.line));
    this.legend.replaceChildren(...this.kinds.map((kind) => el('span', {},
      svg('svg', { class: 'chart', width: 30, height: 12, 'aria-hidden': 'true' },
        svg('path', { class: `edge ${kind}`, d: 'M1 6H29' })),
      `${KIND_NAMES[kind]} (${thousands(this.total(kind))})`)));
    this.legend.querySelectorAll('svg').forEach((picture) => { picture.style.width = '30px'; });
    this.moveTo(this.threshold ?? this.bestThreshold());
  }

  total(kind) {
    return this.counts[kind].reduce((a, b) => a + b, 0);
  }

  // The similarity at which as large a share of true ones is lost as of other places gets in.
  bestThreshold() {
    let [best, least] = [0.5, Infinity];
    for (let b = 0; b <= data.histograms.bins; b += 1) {
      const s = -1 + 2 * b / data.histograms.bins;
      const cost = Math.abs((1 - this.above(s, ['near', 'again'])) - this.above(s, ['far']));
      if (cost < least) [best, least] = [s, cost];
    }
    return best;
  }

  above(similarity, kinds) {
    const first = Math.round((similarity + 1) / 2 * data.histograms.bins);
    let [n, total] = [0, 0];
    for (const kind of kinds) {
      n += this.counts[kind].slice(first).reduce((a, b) => a + b, 0);
      total += this.total(kind);
    }
    return total ? n / total : 0;
  }

  moveTo(similarity) {
    const step = 2 / data.histograms.bins;
    this.threshold = clamp(Math.round(similarity / step) * step, this.low, this.high);
    this.line.setAttribute('x1', this.x(this.threshold));
    this.line.setAttribute('x2', this.x(this.threshold));
    const shares = this.kinds.map(
      (kind) => `${percent(this.above(this.threshold, [kind]))} of ${KIND_NAMES[kind]}`);
    this.told.textContent = this.kinds.length
      ? `At ${fixed(this.threshold, 2)} and above: ${shares.join('; ')}.` : 'Nothing to compare.';
  }
}

// Predicted probability against the share that was true; bars below show how many pairs.
function reliabilityChart(reliability) {
  const { height, top, bottom, left } = CHART;
  const base = height - bottom;
  const side = base - top;
  const right = left + side * 1.5;
  const x = (p) => left + p * (right - left);
  const y = (p) => base - p * side;
  const parts = [];
  for (let p = 0; p <= 1.001; p += 0.25) {
    parts.push(svg('line', { class: 'grid', x1: x(p), x2: x(p), y1: top, y2: base }));
    parts.push(svg('line', { class: 'grid', x1: left, x2: right, y1: y(p), y2: y(p) }));
    parts.push(svg('text', {
      x: x(p), y: base + 17, 'text-anchor': 'middle', text: p.toFixed(2),
    }));
    parts.push(svg('text', { x: left - 6, y: y(p) + 4, 'text-anchor': 'end', text: p.toFixed(2) }));
  }
  parts.push(svg('line', { class: 'ideal', x1: x(0), y1: y(0), x2: x(1), y2: y(1) }));
  parts.push(svg('path', { class: 'axis', d: `M${left} ${top}V${base}H${right}` }));
  const { predicted, observed, counts } = reliability;
  const filled = counts.map((n, i) => i).filter((i) => counts[i] > 0);
  const most = Math.max(...filled.map((i) => counts[i]), 1);
  for (const i of filled) {
    const tall = 26 * Math.log1p(counts[i]) / Math.log1p(most);
    parts.push(svg('rect', {
      class: 'bar-count', x: x(predicted[i]) - 5, y: base - tall, width: 10, height: tall,
      opacity: 0.6,
    }));
  }
  const points = filled.map((i) => `${x(predicted[i]).toFixed(1)} ${y(observed[i]).toFixed(1)}`);
  if (points.length) parts.push(svg('path', { class: 'calibration', d: `M${points.join('L')}` }));
  for (const i of filled) {
    parts.push(svg('circle', {
      class: 'point', cx: x(predicted[i]), cy: y(observed[i]), r: 5,
    }, svg('title', {
      text: `said ${percent(predicted[i])}, true ${percent(observed[i])}, ${counts[i]} matches`,
    })));
  }
  parts.push(svg('text', {
    x: (left + right) / 2, y: height - 5, 'text-anchor': 'middle',
    text: 'probability that it says',
  }));
  parts.push(svg('text', {
    x: right + 14, y: top + side / 2, 'text-anchor': 'middle', text: 'share that was true',
    transform: `rotate(90 ${right + 14} ${top + side / 2})`,
  }));
  return svg('svg', {
    class: 'chart', viewBox: `0 0 ${right + 26} ${height}`, role: 'img',
    'aria-label': `Reliability: ${filled.map((i) => `said ${percent(predicted[i])}, true `
      + `${percent(observed[i])}`).join('; ')}`,
  }, ...parts);
}
