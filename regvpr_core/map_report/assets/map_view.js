// The top view: places and path on a canvas, with zoom, pan, pointer and keys.

class MapView {
  constructor(canvas, { onHover, onPin, onMeasure }) {
    Object.assign(this, { canvas, onHover, onPin, onMeasure });
    this.hovered = -1;
    this.pinned = -1;
    this.marked = [];
    this.camera = -1;
    this.source = -1;
    this.rings = true;
    this.pending = false;
    this.colourBy('time');
    this.path = this.findPath();
    new ResizeObserver(() => {
      if (!this.moved) this.fit();
      this.draw();
    }).observe(canvas);
    this.fit();
    this.listen();
  }

  // Each place and the one before it of its camera and source, where they are near.
  findPath() {
    const last = new Map();
    const from = new Int32Array(count).fill(-1);
    const steps = [];
    for (let i = 0; i < count; i += 1) {
      const key = cameraOf[i] * 65536 + sourceOf[i];
      if (last.has(key)) {
        from[i] = last.get(key);
        steps.push(apart(i, from[i]));
      }
      last.set(key, i);
    }
    steps.sort((a, b) => a - b);
    const longest = 10 * (steps[steps.length >> 1] || 1) + 1;
    this.spacing = steps[steps.length >> 1] || 1;
    return from.map((j, i) => (j >= 0 && apart(i, j) <= longest ? j : -1));
  }

  // Shows all places.
  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < count; i += 1) {
      left = Math.min(left, X(i));
      right = Math.max(right, X(i));
      low = Math.min(low, Y(i));
      high = Math.max(high, Y(i));
    }
    if (!count) [left, right, low, high] = [-5, 5, -5, 5];
    this.scale = Math.min((width - 90) / Math.max(right - left, 4),
      (height - 90) / Math.max(high - low, 4));
    this.scale = Math.max(this.scale, 1e-9);
    this.middle = [(left + right) / 2, (low + high) / 2];
    this.moved = false;
    this.draw();
  }

  screen(x, y) {
    return [this.canvas.clientWidth / 2 + (x - this.middle[0]) * this.scale,
      this.canvas.clientHeight / 2 - (y - this.middle[1]) * this.scale];
  }

  zoom(factor, at) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [px, py] = at || [width / 2, height / 2];
    const scale = clamp(this.scale * factor, 1e-7, 5000);
    const change = 1 / this.scale - 1 / scale;
    this.middle[0] += (px - width / 2) * change;
    this.middle[1] -= (py - height / 2) * change;
    this.scale = scale;
    this.moved = true;
    this.draw();
  }

  pan(dx, dy) {
    this.middle[0] -= dx / this.scale;
    this.middle[1] += dy / this.scale;
    this.moved = true;
    this.draw();
  }

  // Brings a place into view without changing the scale.
  reveal(place) {
    const [x, y] = this.screen(X(place), Y(place));
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (x < 20 || y < 20 || x > width - 20 || y > height - 20) {
      this.middle = [X(place), Y(place)];
      this.moved = true;
    }
    this.draw();
  }

  visible(place) {
    return (this.camera < 0 || cameraOf[place] === this.camera)
      && (this.source < 0 || sourceOf[place] === this.source);
  }

  nearest(px, py, within = 16) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    let [best, least] = [-1, within * within];
    for (let i = 0; i < count; i += 1) {
      const dx = width / 2 + (X(i) - this.middle[0]) * this.scale - px;
      const dy = height / 2 - (Y(i) - this.middle[1]) * this.scale - py;
      const squared = dx * dx + dy * dy;
      if (squared < least && this.visible(i)) [best, least] = [i, squared];
    }
    return best;
  }

  colourBy(mode) {
    this.mode = mode;
    const dark = isDark();
    const own = dark
      ? ['#56b4e9', '#e69f00', '#2fc79a', '#f0e442', '#cc79a7', '#e8763a', '#9fa8ff', '#9aa4b0']
      : ['#0072b2', '#c77700', '#00795a', '#8a7a00', '#a8487f', '#c04b00', '#5a4fcf', '#5d6671'];
    const told = dark ? ['#56b4e9', '#cdd5de', '#f5a04a', '#9fa8ff', '#59626e']
      : ['#0072b2', '#5d6671', '#c04b00', '#5a4fcf', '#b7bec8'];
    this.buckets = [];
    if (mode === 'time') {
      const steps = 32;
      // By rank: a day may lie between two sources, and each should show its own course.
      const order = Uint32Array.from({ length: count }, (_, i) => i)
        .sort((a, b) => (stamps[a] < stamps[b] ? -1 : stamps[a] > stamps[b] ? 1 : a - b));
      this.timeRange = [stamps[order[0]], stamps[order[count - 1]]];
      this.bucketOf = new Uint8Array(count);
      order.forEach((place, rank) => {
        this.bucketOf[place] = Math.floor(rank / count * steps);
      });
      const at = (s) => (dark ? 0.18 + 0.82 * s : 0.92 * s);
      this.buckets = Array.from({ length: steps }, (_, b) => ({
        colour: rgb(viridis(at(b / (steps - 1)))), shape: 'circle',
      }));
    } else if (mode === 'told') {
      this.bucketOf = toldOf;
      this.buckets = TOLD.map((name, b) => ({
        name, colour: told[b], shape: ['circle', 'square', 'triangle', 'diamond', 'circle'][b],
      }));
    } else if (mode === 'directions' || mode === 'hours') {
      this.bucketOf = mode === 'hours' ? seenHours : seenDirections;
      const noun = mode === 'hours' ? 'hour of the day' : 'direction';
      this.buckets = SEEN_NUMBERS.map((number, b) => ({
        name: `${number} ${b > 1 ? noun.replace(/^\w+/, '$&s') : noun}`, colour: own[(b + 7) % 8],
        shape: ['cross', 'circle', 'square', 'triangle', 'diamond'][b],
      }));
    } else {
      const names = mode === 'camera' ? data.cameras : data.sources;
      const each = mode === 'camera' ? cameraOf : sourceOf;
      this.bucketOf = Uint8Array.from(each, (number) => Math.min(number, 7));
      this.buckets = names.slice(0, 8).map((name, b) => ({
        name: b === 7 && names.length > 8 ? `${names.length - 7} others` : name,
        colour: own[b], shape: SHAPES[b],
      }));
    }
    this.buckets.forEach((bucket, b) => {
      bucket.count = 0;
      bucket.number = b;
    });
    for (const b of this.bucketOf) this.buckets[b].count += 1;
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint() {
    const { context, width, height } = fitCanvas(this.canvas);
    this.paintGrid(context, width, height);
    const radius = clamp(this.scale * this.spacing * 0.42, 1.6, 5.5);
    const px = new Float32Array(count);
    const py = new Float32Array(count);
    const inside = new Uint8Array(count);
    for (let i = 0; i < count; i += 1) {
      px[i] = width / 2 + (X(i) - this.middle[0]) * this.scale;
      py[i] = height / 2 - (Y(i) - this.middle[1]) * this.scale;
      inside[i] = px[i] > -20 && py[i] > -20 && px[i] < width + 20 && py[i] < height + 20
        && this.visible(i) ? 1 : 0;
    }
    // 1. the path
    context.strokeStyle = style('--path');
    context.lineWidth = 1.2;
    context.beginPath();
    for (let i = 0; i < count; i += 1) {
      const j = this.path[i];
      if (j >= 0 && (inside[i] || inside[j]) && this.visible(i)) {
        context.moveTo(px[j], py[j]);
        context.lineTo(px[i], py[i]);
      }
    }
    context.stroke();
    // 2. the places, a colour at a time
    const plain = count > 20000 && radius < 2.5;
    this.buckets.forEach((bucket, b) => {
      context.fillStyle = bucket.colour;
      context.beginPath();
      for (let i = 0; i < count; i += 1) {
        if (!inside[i] || this.bucketOf[i] !== b) continue;
        if (plain) context.rect(px[i] - radius, py[i] - radius, 2 * radius, 2 * radius);
        else shape(context, bucket.shape, px[i], py[i], radius);
      }
      context.fill();
    });
    // 3. rings round those that look like another place
    if (this.rings) {
      context.strokeStyle = style('--far');
      context.lineWidth = 1.6;
      context.beginPath();
      for (let i = 0; i < count; i += 1) {
        if (toldOf[i] !== 2 || !inside[i]) continue;
        context.moveTo(px[i] + radius + 4, py[i]);
        context.arc(px[i], py[i], radius + 4, 0, 2 * Math.PI);
      }
      context.stroke();
    }
    // 4. what the pinned place is similar to
    if (this.pinned >= 0) this.paintSimilar(context, px, py);
    for (const place of this.marked) this.paintMark(context, place, px, py, 2);
    if (this.pinned >= 0) this.paintMark(context, this.pinned, px, py, 3);
    if (this.hovered >= 0) this.paintMark(context, this.hovered, px, py, 2);
    this.paintScale(context, width, height);
  }

  paintGrid(context, width, height) {
    const step = roundNumber(130 / this.scale);
    context.strokeStyle = style('--grid');
    context.fillStyle = style('--quiet');
    context.font = '11px system-ui, sans-serif';
    context.lineWidth = 1;
    const digits = step < 1 ? 1 : 0;
    const centre = data.centre;
    const first = (low, c) => Math.ceil((low + c) / step) * step - c;
    context.beginPath();
    const left = this.middle[0] - width / 2 / this.scale;
    for (let x = first(left, centre[0]); x < left + width / this.scale; x += step) {
      const at = Math.round(this.screen(x, 0)[0]) + 0.5;
      context.moveTo(at, 0);
      context.lineTo(at, height);
      // The corner is left to neither axis: its numbers would lie on each other.
      if (at > 40) context.fillText(fixed(x + centre[0], digits), at + 3, 12);
    }
    const low = this.middle[1] - height / 2 / this.scale;
    for (let y = first(low, centre[1]); y < low + height / this.scale; y += step) {
      const at = Math.round(this.screen(0, y)[1]) + 0.5;
      context.moveTo(0, at);
      context.lineTo(width, at);
      if (at > 28) context.fillText(fixed(y + centre[1], digits), 3, at - 3);
    }
    context.stroke();
  }

  paintScale(context, width, height) {
    const length = roundNumber(150 / this.scale);
    this.scaleBar = { metres: length, pixels: length * this.scale };
    const [x, y] = [width - 16 - this.scaleBar.pixels, height - 18];
    context.fillStyle = style('--card');
    context.globalAlpha = 0.85;
    context.fillRect(x - 8, y - 20, this.scaleBar.pixels + 16, 30);
    context.globalAlpha = 1;
    context.strokeStyle = context.fillStyle = style('--text');
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, y - 5);
    context.lineTo(x, y);
    context.lineTo(x + this.scaleBar.pixels, y);
    context.lineTo(x + this.scaleBar.pixels, y - 5);
    context.stroke();
    context.font = '12px system-ui, sans-serif';
    context.textAlign = 'center';
    const text = length >= 1000 ? `${length / 1000} km` : length >= 1 ? `${length} m`
      : `${Math.round(length * 100)} cm`;
    context.fillText(text, x + this.scaleBar.pixels / 2, y - 8);
    if (data.origin) {
      context.fillText('N', width - 22, 30);
      context.beginPath();
      context.moveTo(width - 22, 54);
      context.lineTo(width - 22, 34);
      context.moveTo(width - 27, 40);
      context.lineTo(width - 22, 34);
      context.lineTo(width - 17, 40);
      context.stroke();
    }
    context.textAlign = 'start';
  }

  paintSimilar(context, px, py) {
    const dashes = { near: [], again: [9, 4], far: [3, 4] };
    for (const kind of ['far', 'near', 'again']) {
      context.strokeStyle = context.fillStyle = style(`--${kind}`);
      context.setLineDash(dashes[kind]);
      for (const { place, similarity } of similar(this.pinned, kind)) {
        context.lineWidth = 1 + 2.5 * clamp(similarity, 0, 1);
        context.beginPath();
        context.moveTo(px[this.pinned], py[this.pinned]);
        context.lineTo(px[place], py[place]);
        context.stroke();
        context.beginPath();
        shape(context, KIND_SHAPES[kind], px[place], py[place], 6);
        context.fill();
      }
      context.setLineDash([]);
    }
  }

  // A place with the wedge that its camera sees.
  paintMark(context, place, px, py, weight) {
    const [x, y, heading] = [px[place], py[place], -headings[place]];
    context.fillStyle = style('--text');
    context.globalAlpha = 0.25;
    context.beginPath();
    context.moveTo(x, y);
    context.arc(x, y, 26, heading - 0.5, heading + 0.5);
    context.closePath();
    context.fill();
    context.globalAlpha = 1;
    context.strokeStyle = style('--text');
    context.fillStyle = style('--card');
    context.lineWidth = weight;
    context.beginPath();
    context.arc(x, y, 6.5, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }

  hover(place, byKey = false) {
    if (place === this.hovered && !byKey) return;
    this.hovered = place;
    this.draw();
    this.onHover(place, byKey);
  }

  pin(place) {
    this.pinned = place;
    this.marked = [];
    if (place >= 0) this.reveal(place);
    this.draw();
    this.onPin(place);
  }

  // The way from the pinned place to another one.
  measure(place) {
    this.marked = [place];
    this.draw();
    this.onMeasure(place);
  }

  step(by) {
    if (!count) return;
    let at = this.hovered >= 0 ? this.hovered : this.pinned;
    if (at < 0) at = by > 0 ? -1 : count;
    const [sign, wanted] = [Math.sign(by), Math.abs(by)];
    let reached = -1;
    for (let i = at + sign, n = 0; i >= 0 && i < count && n < wanted; i += sign) {
      if (this.visible(i)) [reached, n] = [i, n + 1];
    }
    if (reached < 0) return;
    this.reveal(reached);
    this.hover(reached, true);
  }

  listen() {
    const { canvas } = this;
    const pointers = new Map();
    let start = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener('pointerdown', (event) => {
      pointers.set(event.pointerId, at(event));
      start = pointers.size === 1 && event.button === 0 ? at(event) : null;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointermove', (event) => {
      const now = at(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        this.hover(this.nearest(...now));
        return;
      }
      if (pointers.size === 2) {  // two fingers: zoom about their middle
        const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
        const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.zoom(gap(now) / gap(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
      } else if (!start || Math.hypot(now[0] - start[0], now[1] - start[1]) > 4) {
        start = null;
        this.hover(-1);
        this.pan(now[0] - before[0], now[1] - before[1]);
      } else return;
      pointers.set(event.pointerId, now);
    });
    const up = (event) => {
      pointers.delete(event.pointerId);
      if (start && event.type === 'pointerup') {
        const place = this.nearest(...start, event.pointerType === 'touch' ? 28 : 16);
        if (place >= 0 && event.shiftKey && this.pinned >= 0) this.measure(place);
        else if (place >= 0) this.pin(place === this.pinned ? -1 : place);
      }
      start = null;
    };
    canvas.addEventListener('pointerup', up);
    canvas.addEventListener('pointercancel', up);
    canvas.addEventListener('pointerleave', () => this.hover(-1));
    canvas.addEventListener('wheel', (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey && !event.metaKey) {
        byId('wheel-hint').hidden = false;
        clearTimeout(this.hintTimer);
        this.hintTimer = setTimeout(() => { byId('wheel-hint').hidden = true; }, 1500);
        return;
      }
      event.preventDefault();
      this.zoom(Math.exp(-clamp(event.deltaY, -200, 200) * 0.002), at(event));
    }, { passive: false });
    canvas.addEventListener('keydown', (event) => {
      const far = event.shiftKey ? 10 : 1;
      const keys = {
        ArrowRight: () => this.step(far), ArrowLeft: () => this.step(-far),
        ArrowDown: () => this.step(10), ArrowUp: () => this.step(-10),
        '+': () => this.zoom(1.4), '=': () => this.zoom(1.4), '-': () => this.zoom(1 / 1.4),
        0: () => this.fit(),
        Enter: () => this.hovered >= 0 && this.pin(this.hovered),
        ' ': () => this.hovered >= 0 && this.pin(this.hovered),
        Escape: () => { this.pin(-1); this.hover(-1); },
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    canvas.addEventListener('blur', () => this.hover(-1));
  }
}
