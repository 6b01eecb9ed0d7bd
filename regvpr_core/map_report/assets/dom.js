// Small tools: elements, packed arrays, numbers as text, colours. Text is only ever text here:
// nothing that a map says is parsed as markup.

const byId = (id) => document.getElementById(id);

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const el = (tag, attributes = {}, ...children) =>
  put(document.createElement(tag), attributes, children);

const svg = (tag, attributes = {}, ...children) =>
  put(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

function unpack(base64, Type) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Type(bytes.buffer);
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const minus = (text) => text.replace('-', '\u2212');

const fixed = (value, digits) => minus(value.toFixed(digits).replace(/^-(0(?:\.0*)?)$/, '$1'));

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 2 : 1)} %`;

const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, '\u202f');

function metres(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 1e5 ? 0 : 2)} km`;
  return `${value.toFixed(value >= 100 ? 0 : 1)} m`;
}

// 1, 2 or 5 times a power of ten, at most `value`.
function roundNumber(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * (value / power >= 5 ? 5 : value / power >= 2 ? 2 : 1);
}

function clock(ns) {
  const ms = Number(ns / 1000000n);
  const date = new Date(ms);
  // Stamps from before 1980 are seconds since something else.
  if (ns < 315532800000000000n || Number.isNaN(date.getTime())) {
    return `${fixed(Number(ns) / 1e9, 3)} s`;
  }
  return `${date.toISOString().replace('T', ' ').replace('Z', '')} UTC`;
}

const VIRIDIS = ['#440154', '#472d7b', '#3b528b', '#2c728e', '#21918c', '#28ae80', '#5ec962',
  '#addc30', '#fde725'].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));

function viridis(share) {
  const at = clamp(share, 0, 1) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[i].map((v, c) => Math.round(v + (at - i) * (VIRIDIS[i + 1][c] - v)));
}

const rgb = (values) => `rgb(${values.join(' ')})`;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const isDark = () => getComputedStyle(document.documentElement).colorScheme.includes('dark');

// A canvas of the size that it has on the page, in device pixels; drawing is in CSS pixels.
function fitCanvas(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

// Adds one marker to the current path. Shapes, so that colour is never the only sign.
const SHAPES = ['circle', 'square', 'triangle', 'diamond', 'cross', 'down', 'bar', 'plus'];

function shape(context, kind, x, y, r) {
  context.moveTo(x, y);
  switch (kind) {
    case 'square': context.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8); break;
    case 'triangle':
      context.moveTo(x, y - r * 1.2);
      context.lineTo(x + r * 1.1, y + r * 0.8);
      context.lineTo(x - r * 1.1, y + r * 0.8);
      context.closePath();
      break;
    case 'down':
      context.moveTo(x, y + r * 1.2);
      context.lineTo(x + r * 1.1, y - r * 0.8);
      context.lineTo(x - r * 1.1, y - r * 0.8);
      context.closePath();
      break;
    case 'diamond':
      context.moveTo(x, y - r * 1.3);
      context.lineTo(x + r * 1.3, y);
      context.lineTo(x, y + r * 1.3);
      context.lineTo(x - r * 1.3, y);
      context.closePath();
      break;
    case 'cross': case 'plus': {
      const a = kind === 'plus' ? 0 : Math.PI / 4;
      for (const turn of [a, a + Math.PI / 2]) {
        const [c, s] = [Math.cos(turn) * r * 1.25, Math.sin(turn) * r * 1.25];
        const [n, m] = [-Math.sin(turn) * r * 0.4, Math.cos(turn) * r * 0.4];
        context.moveTo(x - c + n, y - s + m);
        context.lineTo(x + c + n, y + s + m);
        context.lineTo(x + c - n, y + s - m);
        context.lineTo(x - c - n, y - s - m);
        context.closePath();
      }
      break;
    }
    case 'bar': context.rect(x - r * 1.3, y - r * 0.5, r * 2.6, r); break;
    default:
      context.moveTo(x + r, y);
      context.arc(x, y, r, 0, 2 * Math.PI);
  }
}

// A marker for legends.
function swatch(kind, colour) {
  const canvas = el('canvas', { width: 28, height: 28, 'aria-hidden': 'true' });
  canvas.style.width = canvas.style.height = '14px';
  const context = canvas.getContext('2d');
  context.scale(2, 2);
  context.fillStyle = colour;
  context.beginPath();
  shape(context, kind, 7, 7, 4.6);
  context.fill();
  return canvas;
}
