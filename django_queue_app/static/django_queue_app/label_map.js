// Where the lesions of a label map are: connected regions, the largest first.

/**
 * @param {ArrayLike<number>} voxels label map, first axis fastest
 * @param {number[]} shape [ni, nj, nk]
 * @param {(label: number) => number} kindOf voxels of one kind grow together, by their faces
 * @returns {{label: number, voxels: number, voxel: number[]}[]} `voxel` is the region's own voxel
 *   that is nearest to its centre: a ring's centre would lie outside it.
 */
export function findRegions(voxels, [ni, nj, nk], kindOf) {
  const seen = new Uint8Array(ni * nj * nk);
  const regions = [];
  for (let start = 0; start < seen.length; start++) {
    if (!voxels[start] || seen[start]) continue;
    const members = grow(voxels, seen, start, [ni, nj, nk], kindOf);
    regions.push({
      label: voxels[start],
      voxels: members.length,
      voxel: middleOf(members, ni, nj),
    });
  }
  return regions.sort((a, b) => b.voxels - a.voxels);
}

function grow(voxels, seen, start, [ni, nj, nk], kindOf) {
  const kind = kindOf(voxels[start]);
  const members = [start];
  seen[start] = 1;
  for (let at = 0; at < members.length; at++) {
    const index = members[at];
    const i = index % ni;
    const j = Math.floor(index / ni) % nj;
    const k = Math.floor(index / (ni * nj));
    const next = [
      i > 0 && index - 1,
      i < ni - 1 && index + 1,
      j > 0 && index - ni,
      j < nj - 1 && index + ni,
      k > 0 && index - ni * nj,
      k < nk - 1 && index + ni * nj,
    ];
    for (const other of next) {
      if (other === false || seen[other] || !voxels[other]) continue;
      if (kindOf(voxels[other]) !== kind) continue;
      seen[other] = 1;
      members.push(other);
    }
  }
  return members;
}

function middleOf(members, ni, nj) {
  const place = (index) => [
    index % ni,
    Math.floor(index / ni) % nj,
    Math.floor(index / (ni * nj)),
  ];
  const sum = [0, 0, 0];
  for (const index of members) place(index).forEach((value, axis) => (sum[axis] += value));
  const centre = sum.map((value) => value / members.length);
  let best = null;
  let least = Infinity;
  for (const index of members) {
    const voxel = place(index);
    const apart = voxel.reduce((all, value, axis) => all + (value - centre[axis]) ** 2, 0);
    if (apart < least) [least, best] = [apart, voxel];
  }
  return best;
}

/** Apply a 4x4 affine (rows) to a point. */
export function transform(affine, [x, y, z]) {
  return [0, 1, 2].map(
    (row) => affine[row][0] * x + affine[row][1] * y + affine[row][2] * z + affine[row][3],
  );
}

/** Invert a 4x4 affine (rows). */
export function invert(affine) {
  const [[a, b, c], [d, e, f], [g, h, i]] = affine;
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const inverse = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / det));
  const shift = inverse.map(
    (row) => -(row[0] * affine[0][3] + row[1] * affine[1][3] + row[2] * affine[2][3]),
  );
  return [...inverse.map((row, index) => [...row, shift[index]]), [0, 0, 0, 1]];
}
