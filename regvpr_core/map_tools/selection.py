"""Selection of the keyframes that recognise the places of all views: facility location.

Each view is served by the kept keyframe of its place that recognises it best. Keyframes are
removed one after another, each time the one whose removal costs all views least (backward greedy
search; the sum that is maximised is submodular, Nemhauser, Wolsey and Fisher, 1978).
"""

import numpy as np
from scipy.sparse import csr_matrix, identity

from regvpr_core.arrays import Float64, Ids, Mask

CENTRE, WIDTH, MOST = 2.0, 1.0, 5.0
"""Worth of a keyframe for a view: a logistic function of the margin by which it recognises the
place. Margin of a worth of one half, width of the function, and largest margin that counts, all in
`UpdateConfig.margin`."""

LEAST = 0.05
"""A smaller worth counts as none."""


def worth(excess: csr_matrix, margin: float) -> csr_matrix:
    """Worth (V, V) of the keyframe of the column for the view of the row, 0 to 1.

    Args:
        excess: (V, V) cosine of both less that of the best keyframe elsewhere.
        margin: `UpdateConfig.margin`.
    """
    most = 1.0 / (1.0 + np.exp(-(MOST - CENTRE) / WIDTH))
    found = excess.copy()
    scale = max(margin, 1e-3)
    found.data = 1.0 / (1.0 + np.exp(-(np.minimum(
        found.data / scale, MOST) - CENTRE) / WIDTH))
    found.data[found.data < LEAST] = 0.0
    found.eliminate_zeros()
    # A kept view serves itself.
    return (found + most * identity(found.shape[0], format='csr')).tocsr()


class Selection:
    """Views that are kept, and what each one's removal costs."""

    def __init__(self, worth: csr_matrix, kept: Mask) -> None:
        """Start with the kept views (V,)."""
        self.kept = kept.copy()
        count = worth.shape[0]
        rows = np.repeat(np.arange(count), np.diff(worth.indptr))
        best_first = np.lexsort((-worth.data, rows))
        self._servers, self._worth = worth.indices[best_first], worth.data[best_first]
        self._ends = worth.indptr
        self._served = worth.tocsc()
        self._first = np.full(count, -1)
        self._second = np.full(count, -1)
        self._part = np.zeros(count)
        self.costs: Float64 = np.zeros(count)
        for view in range(count):
            self._serve(view)

    def cheapest(self, among: Mask) -> tuple[int, float]:
        """The kept view among some (V,) whose removal costs least, and the cost; -1 if none."""
        costs = np.where(among & self.kept, self.costs, np.inf)
        view = int(costs.argmin()) if len(costs) else -1
        return (view, float(costs[view])) if view >= 0 and np.isfinite(costs[view]) \
            else (-1, np.inf)

    def remove(self, view: int) -> None:
        """Remove a kept view."""
        self.kept[view] = False
        served = self._served.indices[
            self._served.indptr[view]:self._served.indptr[view + 1]]
        for one in map(int, served[(self._first[served] == view)
                                   | (self._second[served] == view)]):
            self._serve(one)

    def anchors(self, removed: Ids) -> Ids:
        """The kept views that serve removed ones."""
        found = self._first[removed]
        return np.asarray(np.unique(found[found >= 0]))

    def _serve(self, view: int) -> None:
        """Find the best two kept views that serve one, and update what the first one is worth."""
        if self._first[view] >= 0:
            self.costs[self._first[view]] -= self._part[view]
        at = slice(self._ends[view], self._ends[view + 1])
        there = np.flatnonzero(self.kept[self._servers[at]])[:2]
        servers, values = self._servers[at][there], self._worth[at][there]
        self._first[view] = servers[0] if len(there) else -1
        self._second[view] = servers[1] if len(there) > 1 else -1
        self._part[view] = (values[0] if len(there) else 0.0) \
            - (values[1] if len(there) > 1 else 0.0)
        if len(there):
            self.costs[servers[0]] += self._part[view]
