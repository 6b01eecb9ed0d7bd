// Fills the page and joins its parts.

const tip = byId('tip');

// The place in the panel at the side: its picture, its facts, what it is similar to.
function showPlace(place) {
  const title = byId('place-title');
  const body = byId('place-body');
  if (place < 0) {
    title.textContent = 'No place pinned';
    body.replaceChildren(el('p', {
      class: 'quiet',
      text: count ? 'Click a place on the map to see what it is most similar to: keyframes of the '
        + 'same place, and places elsewhere that look like it.' : 'There is nothing to see yet.',
    }));
    return;
  }
  title.textContent = `Place #${ids[place]}`;
  const parts = [
    el('div', { class: 'bar' },
      stepButton('\u2190', 'previous place', -1),
      stepButton('\u2192', 'next place', 1),
      el('button', { type: 'button', text: 'let go', onclick: () => view.pin(-1) })),
    picture(place),
    table(facts(place)),
  ];
  if (!rowOf.has(place)) {
    parts.push(el('p', { text: 'This place was not compared with the others.' }), el('button', {
      type: 'button', text: 'go to the nearest that was', onclick: () => view.pin(nearestQueried(place)),
    }));
  }
  for (const kind of KINDS) {
    const found = similar(place, kind);
    if (!found.length) continue;
    const heading = kind === 'far' ? 'Other places that look like it'
      : kind === 'near' ? 'Same place, same pass' : 'Same place, another pass';
    parts.push(el('h3', { text: heading }), el('div', { class: 'strip' },
      ...found.map((one) => neighbourButton(place, one))));
  }
  if (toldOf[place] === 2) {
    parts.splice(3, 0, el('p', {
      class: 'note', text: 'Another place is more similar to it than any of its own neighbours.',
    }));
  }
  body.replaceChildren(...parts);
}

function stepButton(text, name, by) {
  return el('button', {
    type: 'button', text, 'aria-label': name, title: name, onclick: () => neighbour(by),
  });
}

function neighbourButton(place, { place: other, similarity, kind }) {
  const away = metres(apart(place, other));
  return el('button', {
    type: 'button', class: kind,
    'aria-label': `keyframe ${ids[other]}, ${KIND_NAMES[kind]}, similarity `
      + `${fixed(similarity, 2)}, ${away} away`,
    onclick: () => view.pin(other),
    onmouseenter: () => { view.marked = [other]; view.draw(); },
    onmouseleave: () => { view.marked = []; view.draw(); },
  }, picture(other), el('b', { text: fixed(similarity, 2) }), ` #${ids[other]} ${away}`);
}

function neighbour(by) {
  view.hovered = -1;
  let at = view.pinned + by;
  while (at >= 0 && at < count && !view.visible(at)) at += by;
  if (at >= 0 && at < count) view.pin(at);
}

function nearestQueried(place) {
  return Array.from(queried).reduce(
    (best, q) => (apart(q, place) < apart(best, place) ? q : best), queried[0]);
}

function table(rows) {
  return el('table', {}, ...rows.map(([name, value]) => el('tr', {},
    el('th', { scope: 'row', text: name }), el('td', { text: value }))));
}

// The picture and facts beside the pointer, or beside the place reached by key.
function showTip(place, byKey) {
  tip.hidden = place < 0;
  if (place < 0) return;
  tip.replaceChildren(picture(place),
    ...facts(place).map(([name, value]) => el('div', { text: `${name} ${value}` })),
    el('div', { text: TOLD[toldOf[place]], class: 'quiet' }));
  if (view.pinned >= 0 && view.pinned !== place) {
    tip.append(el('div', { text: `${metres(apart(place, view.pinned))} from #${ids[view.pinned]}` }));
  }
  // Once more when the picture is there: only then it is known how high the box is.
  tip.querySelectorAll('img').forEach((image) => image.addEventListener('load', () => placeTip(place)));
  placeTip(place);
  if (byKey) byId('spoken').textContent = sentence(place);
}

function placeTip(place) {
  const frame = byId('map-frame');
  const [x, y] = view.screen(X(place), Y(place));
  const right = x + 18 + tip.offsetWidth <= frame.clientWidth;
  tip.style.left = `${Math.max(4, right ? x + 18 : x - 18 - tip.offsetWidth)}px`;
  tip.style.top = `${clamp(y - 40, 4, Math.max(4, frame.clientHeight - tip.offsetHeight - 4))}px`;
}

function showLegend() {
  const parts = [];
  if (view.mode === 'time') {
    const bar = el('canvas', { width: 240, height: 24, 'aria-hidden': 'true' });
    bar.style.width = '120px';
    bar.style.height = '12px';
    const context = bar.getContext('2d');
    view.buckets.forEach(({ colour }, b) => {
      context.fillStyle = colour;
      context.fillRect(b * 7.5, 0, 8, 24);
    });
    const ends = !count ? [] : allUntimed ? ['first image', 'last image']
      : view.timeRange.map(clock);
    if (count) parts.push(el('span', {}, ends[0], bar, ends[1]));
  } else {
    for (const { name, colour, shape: kind, count: n } of view.buckets) {
      if (n) parts.push(el('span', {}, swatch(kind, colour), `${name} (${thousands(n)})`));
    }
  }
  if (view.rings && toldOf.includes(2)) {
    const ring = el('canvas', { width: 28, height: 28, 'aria-hidden': 'true' });
    ring.style.width = ring.style.height = '14px';
    const context = ring.getContext('2d');
    context.lineWidth = 3;
    context.strokeStyle = style('--far');
    context.arc(14, 14, 11, 0, 7);
    context.stroke();
    parts.push(el('span', {}, ring, 'looks more like another place than like its own'));
  }
  if (view.pinned >= 0) {
    for (const kind of KINDS) {
      if (similar(view.pinned, kind).length) {
        parts.push(el('span', {}, swatch(KIND_SHAPES[kind], style(`--${kind}`)), KIND_NAMES[kind]));
      }
    }
  }
  byId('legend').replaceChildren(...parts);
}

// The way from the pinned place to another one, in words below the map.
function showMeasure(place) {
  const box = byId('measure');
  box.hidden = place < 0;
  if (place < 0) return;
  const there = view.pinned;
  box.textContent = `From #${ids[there]} to #${ids[place]}: ${metres(apart(there, place))}, looking `
    + `${fixed(turn(there, place), 0)}° apart.`;
}

function showPair(pair, cell) {
  const box = byId('pair');
  view.marked = pair ? [pair[0], pair[1]] : [];
  view.draw();
  if (!cell) {
    box.replaceChildren(el('p', {
      class: 'quiet', text: 'Point at the matrix, or move in it by the arrow keys, to see the pair.',
    }));
    return;
  }
  if (!pair) {
    box.replaceChildren(el('p', { text: 'A keyframe with itself, or a pair not compared.' }));
    return;
  }
  const [a, b, similarity] = pair;
  const figure = (place) => el('figure', {}, picture(place), el('figcaption', {
    text: `#${ids[place]}, ${imageName(place) || when(place)}, ${data.cameras[cameraOf[place]]}, `
      + data.sources[sourceOf[place]],
  }));
  box.replaceChildren(
    el('p', { class: 'value', text: fixed(similarity, 3) }),
    el('p', { text: `#${ids[a]} and #${ids[b]}, ${metres(apart(a, b))} apart, looking `
      + `${fixed(turn(a, b), 0)}° apart` }),
    el('div', { class: 'two' }, figure(a), figure(b)));
}

function turn(a, b) {
  const angle = Math.abs(headings[a] - headings[b]) * 180 / Math.PI % 360;
  return Math.min(angle, 360 - angle);
}

function showWarnings() {
  const found = data.warnings;
  byId('warning-count').textContent = found.length ? `(${found.length})` : '';
  const items = found.map(({ text, places }) => {
    const links = places.map((group) => el('button', {
      type: 'button',
      text: group.map((place) => `#${ids[place]}`).join(' and '),
      onclick: () => {
        view.pin(group[0]);
        view.marked = group.slice(1);
        byId('map-section').scrollIntoView({ block: 'nearest' });
        byId('map').focus({ preventScroll: true });
      },
    }));
    return el('li', {}, text, el('div', { class: 'links' }, ...links));
  });
  byId('warnings').replaceChildren(...(items.length ? items : [el('li', { text: 'None.' })]));
}

function showShares() {
  const parts = [];
  const [near, nearRight] = data.shares.near;
  const [again, againRight] = data.shares.again;
  if (near) {
    parts.push(`Of ${thousands(near)} places with a neighbour of the same pass, ${percent(nearRight)}`
      + ' are more similar to one than to any place elsewhere.');
  }
  if (again) {
    parts.push(`Of ${thousands(again)} seen in another pass too, ${percent(againRight)} are more `
      + 'similar to themselves there than to anything else in other passes: what a robot that '
      + 'returns can hope for from one picture.');
  }
  parts.push(`Same place: nearer than ${data.radius.toFixed(1)} m and ${data.angleDeg.toFixed(0)}°. Another: `
    + 'beyond twice either. Same pass: one source, less than '
    + `${data.passSeconds} s apart. Similarity: cosine of the descriptors less the map's mean.`);
  byId('shares').textContent = parts.join(' ');
}

function showTables() {
  byId('name').textContent = data.name;
  document.title = `Place map ${data.name}`;
  byId('summary').textContent = data.facts.slice(0, 5)
    .map(([name, value]) => `${name} ${value}`).join(' · ');
  byId('ask').textContent = `regvpr localize ${data.path} PHOTO.jpg`;
  byId('left-out').hidden = !data.leftOut.length;
  byId('left-out').textContent = data.leftOut.join(' ');
  byId('facts').replaceChildren(...table(data.facts).children);
  const names = ['source', 'keyframes', 'cameras', 'from', 'to'];
  byId('sources').replaceChildren(
    el('tr', {}, ...names.map((name) => el('th', { scope: 'col', text: name }))),
    ...data.sourceTable.map(([source, n, cameras, first, last]) => el('tr', {},
      ...[source, thousands(n), cameras,
        ...[first, last].map((stamp) => (allUntimed ? 'not known' : clock(BigInt(stamp))))]
        .map((text) => el('td', { text })))));
}

function showReliability() {
  const { reliability } = data;
  byId('reliability').replaceChildren(reliability && reliability.counts.some((n) => n > 0)
    ? reliabilityChart(reliability)
    : el('p', { text: 'No calibration could be learnt from this map.' }));
  byId('reliability-text').textContent = reliability
    ? `${reliability.text} On the dashed line it says what is true; above it is too modest, below `
      + 'it is too sure. Bars: how many matches, logarithmic.' : '';
}

// A choice of one of several cameras or sources to look at.
function filter(name, names, changed) {
  if (names.length < 2) return;
  byId(`${name}-filter`).hidden = false;
  const select = byId(name);
  select.append(el('option', { value: -1, text: 'all' }),
    ...names.slice(0, 100).map((text, i) => el('option', { value: i, text })));
  select.addEventListener('change', () => {
    changed(Number(select.value));
    view.hover(-1);
    view.draw();
  });
}

function setTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId('theme').textContent = `Theme: ${theme}`;
  repaint();
}

function repaint() {
  view.colourBy(view.mode);
  showLegend();
  matrix.paint();
}

const view = new MapView(byId('map'), {
  onHover: showTip,
  onMeasure: showMeasure,
  onPin: (place) => {
    showMeasure(-1);
    showPlace(place);
    showLegend();
    byId('spoken').textContent = place < 0 ? 'no place pinned' : `pinned ${sentence(place)}`;
  },
});
const matrix = new MatrixView(byId('matrix'), {
  onPair: showPair,
  onPin: ([a, b]) => {
    view.pin(a);
    view.marked = [b];
  },
});
const distribution = new DistributionView(byId('distribution'), {
  legend: byId('distribution-legend'), told: byId('threshold'),
});

showTables();
if (allUntimed) byId('colour').querySelector('[value=time]').textContent = 'order';
// The first thing to look at: a place that is taken for another, else the middle of the map.
const mistaken = toldOf.indexOf(2);
view.pinned = mistaken >= 0 ? mistaken : count ? count >> 1 : -1;
showPlace(view.pinned);
showLegend();
showWarnings();
showShares();
showReliability();
showPair(null, null);
byId('empty').hidden = count > 0;
byId('matrix-note').textContent = matrix.size > 1
  ? `Each square is the most similar pair of ${matrix.size} by ${matrix.size} keyframes `
    + 'that was compared.' : 'Each square is a pair of keyframes.';
byId('colour').addEventListener('change', (event) => {
  view.colourBy(event.target.value);
  showLegend();
});
byId('rings').addEventListener('change', (event) => {
  view.rings = event.target.checked;
  showLegend();
  view.draw();
});
if (!data.shares.again[0]) byId('counted').querySelector('[value=returning]').remove();
byId('counted').addEventListener('change', (event) => {
  distribution.counted = event.target.value;
  distribution.threshold = null;
  distribution.draw();
});
byId('zoom-in').addEventListener('click', () => view.zoom(1.4));
byId('zoom-out').addEventListener('click', () => view.zoom(1 / 1.4));
byId('fit').addEventListener('click', () => view.fit());
byId('theme').addEventListener('click', () => {
  const order = { system: 'light', light: 'dark', dark: 'system' };
  setTheme(order[document.documentElement.dataset.theme || 'system']);
});
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
filter('camera', data.cameras, (number) => { view.camera = number; });
filter('source', data.sources, (number) => { view.source = number; });
window.mapPage = { view, matrix, distribution };  // for the console, and for tests
