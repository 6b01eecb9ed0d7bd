// The plan of the demo: hover or tap a query to see its image beside the keyframe it matched.
(() => {
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const space = 'http://www.w3.org/2000/svg';
const plan = document.getElementById('plan');
const make = (tag, attributes, parent = plan) => {
  const node = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
};
const all = [...data.places, ...data.queries.map((q) => q.xy)];
const xs = all.map((p) => p[0]), ys = all.map((p) => -p[1]);
const [left, top] = [Math.min(...xs), Math.min(...ys)];
const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
const unit = Math.max(width, height) / 150;
plan.setAttribute('viewBox', [left - 4 * unit, top - 4 * unit, width + 8 * unit,
  height + 8 * unit].join(' '));
for (const [x, y] of data.places) make('circle', { class: 'place', cx: x, cy: -y, r: 0.5 * unit });
const kind = (q) => (q.right === null ? 'none' : q.right ? 'right' : 'wrong');
const line = make('line', { class: 'match' });
data.queries.forEach((q) => make('circle', {
  class: kind(q), cx: q.xy[0], cy: -q.xy[1], r: (kind(q) === 'wrong' ? 1.4 : 0.9) * unit }));
const pin = make('circle', { class: 'pin', r: 2.2 * unit });
const text = (id, value) => { document.getElementById(id).textContent = value; };
let shown = 0;
function show(index) {
  shown = (index + data.queries.length) % data.queries.length;
  const q = data.queries[shown];
  pin.setAttribute('cx', q.xy[0]);
  pin.setAttribute('cy', -q.xy[1]);
  const end = q.match || q.xy;
  line.setAttribute('x1', q.xy[0]);
  line.setAttribute('y1', -q.xy[1]);
  line.setAttribute('x2', end[0]);
  line.setAttribute('y2', -end[1]);
  for (const side of ['query', 'reference']) {
    const image = document.getElementById(side);
    image.hidden = !q[side];
    document.getElementById(`${side}-blank`).hidden = Boolean(q[side]);
    if (q[side]) image.src = q[side];
  }
  text('told', q.text);
}
data.queries.forEach((q, i) => {
  const hit = make('circle', { class: 'hit', cx: q.xy[0], cy: -q.xy[1], r: 2.5 * unit });
  hit.addEventListener('pointerenter', () => show(i));
  hit.addEventListener('click', () => show(i));
});
document.getElementById('before').addEventListener('click', () => show(shown - 1));
document.getElementById('after').addEventListener('click', () => show(shown + 1));
document.addEventListener('keydown', (event) => {
  if (event.key === 'ArrowLeft') show(shown - 1);
  if (event.key === 'ArrowRight') show(shown + 1);
});
if (data.queries.length) show(data.first);
})();
