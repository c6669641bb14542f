// The heat map: the picture is darkened where the model did not look.

/** Shares of the attention of a word on each patch; they sum to the share that is on the picture. */
function shares(word) {
  const sum = word.heat.reduce((total, value) => total + value, 0) || 1;
  return word.heat.map((value) => (value / sum) * word.on_picture);
}

/** The heat of one word, or of all with `place` null, from 0 to 1 for each patch. With `compare`, where a word drew more
 *  attention than the words of the caption on average: most words look at a few same patches, which it leaves out. */
export function heatOf(words, place, compare) {
  const known = words.filter((word) => word.heat);
  if (!known.length) return null;
  const all = known.map(shares);
  const mean = all[0].map((_, patch) => all.reduce((sum, each) => sum + each[patch], 0) / all.length);
  let values = mean;
  if (place !== null) {
    if (!words[place].heat) return null;
    const own = shares(words[place]);
    const total = own.reduce((sum, value) => sum + value, 0) || 1;
    const meanTotal = mean.reduce((sum, value) => sum + value, 0) || 1;
    values = compare ? own.map((value, patch) => Math.max(0, value / total - mean[patch] / meanTotal)) : own;
  }
  const most = Math.max(...values) || 1;
  return values.map((value) => value / most);
}

/** Draw heat over a picture. `canvas` lies over the picture; `region` is the part that the patches cover, in shares. */
export function drawHeat(canvas, heat, rows, columns, region) {
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  heat.forEach((value, patch) => {
    pixels.data.set([8, 10, 20, Math.round(205 * (1 - value))], patch * 4);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const side = 480;
  canvas.width = side;
  canvas.height = side;
  const context = canvas.getContext("2d");
  context.fillStyle = "rgb(8 10 20 / 80%)"; // what the model does not see at all
  context.fillRect(0, 0, side, side);
  const [left, top, width, height] = region.map((share) => share * side);
  context.clearRect(left, top, width, height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, left, top, width, height);
}
