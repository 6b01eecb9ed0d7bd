// What the page shows, unpacked, and what is said of one place or a pair.

const data = JSON.parse(byId('data').textContent);
const KINDS = ['near', 'again', 'far'];
const KIND_NAMES = {
  near: 'same place, same pass', again: 'same place, another pass', far: 'another place',
};
const KIND_SHAPES = { near: 'circle', again: 'square', far: 'triangle' };
const NONE = -32768;

const ids = unpack(data.ids, Uint32Array);
const stamps = unpack(data.stamps, BigInt64Array);
const offsets = unpack(data.offsets, Float32Array);
const headings = unpack(data.headings, Float32Array);
const cameraOf = unpack(data.cameraOf, Uint16Array);
const sourceOf = unpack(data.sourceOf, Uint16Array);
const count = ids.length;

const seenFrom = unpack(data.seen.directions, Uint8Array);
const seenAt = unpack(data.seen.hours, Uint32Array);
const seenBy = unpack(data.seen.drives, Uint32Array);

const queried = unpack(data.queried, Uint32Array);
const rowOf = new Map(Array.from(queried, (place, row) => [place, row]));
const neighbourPlaces = {};
const neighbourSimilarities = {};
for (const kind of KINDS) {
  neighbourPlaces[kind] = unpack(data.neighbours[kind], Int32Array);
  neighbourSimilarities[kind] = unpack(data.similarities[kind], Int16Array);
}
const pictured = unpack(data.pictures.places, Uint32Array);
const pictureOf = new Map(Array.from(pictured, (place, i) => [place, i]));

// Images of a folder that have no time are counted by whole seconds from 0: that is no time.
const imageName = (place) => data.images[place] || '';
const untimed = (place) => imageName(place) !== '' && stamps[place] < 1000000000000000n
  && stamps[place] % 1000000000n === 0n;
const allUntimed = count > 0 && Array.from({ length: count }, (_, i) => i).every(untimed);
const when = (place) => (untimed(place) ? 'not known' : clock(stamps[place]));

const X = (place) => offsets[3 * place];
const Y = (place) => offsets[3 * place + 1];
const Z = (place) => offsets[3 * place + 2];

function apart(a, b) {
  return Math.hypot(X(a) - X(b), Y(a) - Y(b), Z(a) - Z(b));
}

// The most similar places of a kind: [{place, similarity}], best first.
function similar(place, kind) {
  const row = rowOf.get(place);
  if (row === undefined) return [];
  const each = neighbourPlaces[kind].length / queried.length;
  const found = [];
  for (let i = row * each; i < (row + 1) * each; i += 1) {
    if (neighbourPlaces[kind][i] >= 0) {
      found.push({
        place: neighbourPlaces[kind][i], similarity: neighbourSimilarities[kind][i] / 10000, kind,
      });
    }
  }
  return found;
}

// 0 clearly, 1 barely, 2 mistaken for another place, 3 no neighbour, 4 not compared.
const CLEAR = 0.05;
const TOLD = ['own place clearly most alike', 'own place barely most alike',
  'another place is more alike', 'no true neighbour', 'not compared'];

function told(place) {
  if (!rowOf.has(place)) return 4;
  const first = (kind) => (similar(place, kind)[0] || { similarity: -2 }).similarity;
  const own = Math.max(first('near'), first('again'));
  if (own === -2) return 3;
  const margin = own - first('far');
  return margin < 0 ? 2 : margin < CLEAR ? 1 : 0;
}

const toldOf = Uint8Array.from({ length: count }, (_, place) => told(place));

// The numbers of the bits that are set.
function bits(mask) {
  return Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => (mask >>> bit) & 1);
}

// How the map has seen a place: directions, drives, hours of the day.
function seen(place) {
  const directions = bits(seenFrom[place]).map((eighth) => `${45 * eighth}\u00b0`);
  const hours = bits(seenAt[place]).map((hour) => String(hour).padStart(2, '0'));
  const drives = seenBy[place];
  return `from ${directions.join(', ')}; in ${drives} drive${drives === 1 ? '' : 's'}`
    + (hours.length ? `; at ${hours.join(', ')} h ${data.seen.clock}` : '');
}

const SEEN_NUMBERS = ['none known', '1', '2', '3', '4 or more'];
const seenDirections = Uint8Array.from(seenFrom, (mask) => Math.min(bits(mask).length, 4));
const seenHours = Uint8Array.from(seenAt, (mask) => Math.min(bits(mask).length, 4));

// The place with a picture nearest in the order of the map, of the same camera where one is.
function nearestPictured(place) {
  let low = 0;
  let high = pictured.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (pictured[middle] < place) low = middle + 1; else high = middle;
  }
  let best = -1;
  for (let i = Math.max(0, low - 16); i < Math.min(pictured.length, low + 16); i += 1) {
    const cost = (p) => Math.abs(p - place) + (cameraOf[p] === cameraOf[place] ? 0 : 1e6);
    if (best < 0 || cost(pictured[i]) < cost(best)) best = pictured[i];
  }
  return best;
}

// The picture of a place, or of one near it where the page has none of its own.
function picture(place) {
  const shown = pictureOf.has(place) ? place : nearestPictured(place);
  if (shown < 0) return el('div', { class: 'no-picture', text: 'no picture stored' });
  const image = el('img', {
    src: `data:image/jpeg;base64,${data.pictures.jpeg[pictureOf.get(shown)]}`,
    alt: `picture of keyframe ${ids[shown]}`, 'data-keyframe': ids[shown],
  });
  if (shown === place) return image;
  return el('div', { class: 'borrowed' }, image, el('p', {
    class: 'quiet',
    text: `picture of #${ids[shown]}, ${metres(apart(shown, place))} from here`,
  }));
}

function latLon(place) {
  if (!data.origin) return null;
  const lat = data.origin.lat * Math.PI / 180;
  const e2 = 0.00669437999014;
  const w = Math.sqrt(1 - e2 * Math.sin(lat) ** 2);
  const east = data.centre[0] + X(place);
  const north = data.centre[1] + Y(place);
  const perLat = 6378137 * (1 - e2) / w ** 3;
  const perLon = 6378137 / w * Math.cos(lat);
  return [data.origin.lat + north / perLat * 180 / Math.PI,
    data.origin.lon + east / perLon * 180 / Math.PI];
}

// Names and values of one place.
function facts(place) {
  const p = [X, Y, Z].map((axis, i) => fixed(data.centre[i] + axis(place), 2));
  const rows = [
    ['keyframe', `#${ids[place]}`],
    ...(imageName(place) ? [['image', imageName(place)]] : []),
    ...(untimed(place) ? [] : [['stamp', clock(stamps[place])]]),
    ['position', `x ${p[0]}  y ${p[1]}  z ${p[2]} m`],
    ['looks', `${fixed(headings[place] * 180 / Math.PI, 0)}° from x`],
    ['place seen', seen(place)],
    ['camera', data.cameras[cameraOf[place]]],
    ['source', data.sources[sourceOf[place]]],
  ];
  const gps = latLon(place);
  if (gps) rows.splice(3, 0, ['lat, lon', `${gps[0].toFixed(6)}°, ${gps[1].toFixed(6)}°`]);
  return rows;
}

const sentence = (place) => facts(place).map(([name, value]) => `${name} ${value}`).join(', ');
