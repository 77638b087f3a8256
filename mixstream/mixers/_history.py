"""The loss curves that ADO keeps: one per domain, smoothed, subsampled and small.

Rules. A `History` is a value: `append` returns another one. The curve is smoothed by local polynomials (Savitzky and
Golay 1964) as by `scipy.signal.savgol_filter` over the whole history, mode "interp": the smoothed loss of a row is the
value there of the polynomial fitted to the window around it; the first and last half window lie on the polynomial of
the first and last window. So a smoothed loss is final once half a window of rows follows it. Stored are the final
points, every `every`-th row, as float32, and the last window of raw rows, from which `points` computes those of the
last half window. Nothing else matters, so a run continues bit for bit from a saved state.

Shape suffixes: K domains, W rows of a window, P points, C counters (1 where all domains share one, else K), R runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import shown
from mixstream.errors import ConfigError
from mixstream.mixers.form import Part
from mixstream.types import Float64, Int64

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How rows become points.

    Attributes:
        window: rows that a smoothing polynomial is fitted to; odd.
        degree: of that polynomial, below `window`.
        ignore: rows at the beginning that give no points.
        every: rows between points at first.
        most: final points kept; beyond it every other point is dropped and the distance doubles. None for all.
        seen: rows with a loss that a domain needs before its points count. With 0, a domain without any loss takes the
            mean loss of the row, as in the released code.

    Raises:
        ConfigError: no polynomial of that degree can be fitted to such a window.
    """

    window: int
    degree: int
    ignore: int
    every: int
    most: int | None
    seen: int

    def __post_init__(self) -> None:
        if self.window % 2 == 0 or self.window <= self.degree:
            raise ConfigError(
                f"ADO window={shown(self.window)} cannot be smoothed by polynomials of degree {shown(self.degree)}:"
                f" it has no middle row, or too few rows; give an odd number above {shown(self.degree)}"
            )


class Points(NamedTuple):
    """A history's smoothed points, up to its last row.

    Attributes:
        n_PK: float64 [P, K], rows of the corpus (or of the domain) seen by then.
        loss_PK: float64 [P, K], smoothed loss in nats; NaN where no loss of the domain counts.
    """

    n_PK: Float64
    loss_PK: Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The loss curves of a run.

    Attributes:
        rows: rows so far.
        every: rows between points by now.
        recent_loss_WK: float32 [<= window, K], the last raw rows, oldest first; NaN for a domain never seen.
        recent_n_WC: float64 [<= window, C], sequences seen up to and including each of them.
        final_loss_PK: float32 [P, K], smoothed losses that no longer change.
        final_n: their n. With shared counters float64 [R, 2], runs of (points, sequences between points), since the
            size of a batch seldom changes; else float32 [P, K].
        sightings_K: int64 [K], rows in which the domain had a loss.
        ready_K: int64 [K], the row from which its points count; -1 while none do.
    """

    rows: int
    every: int
    recent_loss_WK: Float32
    recent_n_WC: Float64
    final_loss_PK: Float32
    final_n: NDArray[Any]
    sightings_K: Int64
    ready_K: Int64

    @classmethod
    def begin(cls, domains: int, sampling: Sampling, *, shared: bool) -> Self:
        """Return the empty history; a `shared` counter counts the sequences of all domains together."""
        return cls(
            rows=0,
            every=sampling.every,
            recent_loss_WK=np.empty((0, domains), np.float32),
            recent_n_WC=np.empty((0, 1 if shared else domains)),
            final_loss_PK=np.empty((0, domains), np.float32),
            final_n=np.empty((0, 2)) if shared else np.empty((0, domains), np.float32),
            sightings_K=np.zeros(domains, np.int64),
            ready_K=np.full(domains, -1 if sampling.seen else 0, np.int64),
        )

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """Return the history that `dump` was called on."""
        return cls(**state)

    @classmethod
    def check(cls, at: Part, domains: int, sampling: Sampling, *, rows: int, shared: bool) -> None:
        """Check a history in a loaded state, which has `rows` rows, as every step has one.

        Raises:
            StateError: it is none.
        """
        at.keys(set(cls.__slots__))
        at["rows"].whole(least=rows, most=rows)
        every = at["every"].whole(least=sampling.every)
        if every % sampling.every or (every // sampling.every).bit_count() > 1:
            at["every"].refuse(f"{sampling.every} times a power of 2")
        window, counters = min(rows, sampling.window), 1 if shared else domains
        at["recent_loss_WK"].array(window, domains, dtype="float32", least=0.0, unknown=True)
        n_WC = at["recent_n_WC"].array(window, counters, least=0.0)
        if (np.diff(n_WC, axis=0) < 0).any():
            at["recent_n_WC"].refuse("counts that do not fall")
        last = rows - 1 - sampling.window // 2 - sampling.ignore
        points = last // every + 1 if rows >= sampling.window and last >= 0 else 0
        at["final_loss_PK"].array(points, domains, dtype="float32", unknown=True, infinite=True)
        if shared:
            run_R2 = at["final_n"].array(None, 2, least=0.0)
            count_R = run_R2[:, 0]
            if (count_R != np.rint(count_R)).any() or count_R.sum() != points:
                at["final_n"].refuse(f"runs of {points} points")
        else:
            at["final_n"].array(points, domains, dtype="float32", least=0.0)
        at["sightings_K"].array(domains, dtype="int64", least=0, most=rows)
        at["ready_K"].array(domains, dtype="int64", least=-1, most=rows)

    def dump(self) -> dict[str, Any]:
        """Return the history as a dict of numbers and arrays, without copies."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def shared(self) -> bool:
        """Whether all domains share one counter."""
        return self.final_n.dtype == np.float64

    @property
    def n_K(self) -> Float64:
        """Sequences seen by now, float64 [K]."""
        last_C = self.recent_n_WC[-1] if self.rows else np.zeros(1)
        return np.broadcast_to(last_C, self.sightings_K.shape).copy()

    def append(self, loss_K: Float64, rows_K: Float64, sampling: Sampling) -> Self:
        """Return the history with one more step.

        Args:
            loss_K: float64 [K], mean losses in nats. One that is not finite or not positive counts as unknown and
                takes the last value of the domain.
            rows_K: float64 [K], sequences of each domain in the step.
            sampling: the same in every call.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            row_K = loss_K.astype(np.float32)
            known_K = np.isfinite(row_K) & (row_K > 0)
        if not known_K.all():
            row_K = self._imputed(row_K, known_K, rows_K, sampling)
        grown_C = rows_K.sum(keepdims=True) if self.shared else rows_K
        n_C = self.recent_n_WC[-1] + grown_C if self.rows else grown_C.astype(np.float64)
        kept = slice(max(len(self.recent_n_WC) + 1 - sampling.window, 0), None)
        sightings_K = self.sightings_K + known_K
        arrived_K = (self.ready_K < 0) & (sightings_K >= sampling.seen)
        longer = replace(
            self,
            rows=self.rows + 1,
            recent_loss_WK=np.concatenate([self.recent_loss_WK[kept], row_K[None]]),
            recent_n_WC=np.concatenate([self.recent_n_WC[kept], n_C[None]]),
            sightings_K=sightings_K,
            ready_K=np.where(arrived_K, self.rows, self.ready_K),
        )
        return longer._settled(sampling)

    def points(self, sampling: Sampling) -> Points:
        """Return all points by now, including those of the last half window; none before a window of rows."""
        domains = len(self.sightings_K)
        if self.rows < sampling.window:
            return Points(np.empty((0, domains)), np.empty((0, domains)))
        first = self.rows - sampling.window
        at_Q = self._on_grid(np.arange(sampling.window // 2 + 1, sampling.window), first, sampling)
        loss_PK = np.concatenate([self.final_loss_PK, self._smoothed(at_Q, sampling)]).astype(np.float64)
        n_PC = np.concatenate([self._final_n_PC(), self.recent_n_WC[at_Q]])
        row_P = sampling.ignore + self.every * np.arange(len(loss_PK))
        counts_PK = (self.ready_K >= 0) & (row_P[:, None] >= self.ready_K)
        return Points(np.broadcast_to(n_PC, loss_PK.shape), np.where(counts_PK, loss_PK, np.nan))

    def recent(self, count: int, sampling: Sampling) -> Points:
        """Return the last `count` final points or, if that is longer, as many spread evenly over their last eighth."""
        total = len(self.final_loss_PK)
        stride = max(-(-total // 8) // count, 1)
        at_P = np.arange(total - 1, max(total - 1 - stride * count, -1), -stride)[::-1]
        n_PC = self._final_n_PC()[at_P] if self.shared else self.final_n[at_P].astype(np.float64)
        loss_PK = self.final_loss_PK[at_P].astype(np.float64)
        counts_PK = (self.ready_K >= 0) & (sampling.ignore + self.every * at_P[:, None] >= self.ready_K)
        return Points(np.broadcast_to(n_PC, loss_PK.shape), np.where(counts_PK, loss_PK, np.nan))

    def first_n_K(self, sampling: Sampling) -> Float64:
        """Return n of each domain's first final point that counts, float64 [K]; NaN for a domain without one."""
        total = len(self.final_loss_PK)
        at_K = np.maximum(-(-(self.ready_K - sampling.ignore) // self.every), 0)
        there_K = (self.ready_K >= 0) & (at_K < total)
        if not there_K.any():
            return np.full(len(self.ready_K), np.nan)
        at_K = np.where(there_K, at_K, 0)
        n_K = self._final_n_PC()[at_K, 0] if self.shared else self.final_n[at_K, np.arange(len(at_K))]
        return np.where(there_K, n_K, np.nan)

    def adapt(self, source_K: Int64, sampling: Sampling) -> Self:
        """Return the history of other domains; `source_K` has the place of each among these, -1 for a new one."""
        new_K = source_K < 0

        def columns(array: NDArray[Any], empty: float) -> NDArray[Any]:
            return np.where(new_K, np.array(empty, array.dtype), array[..., source_K])

        return replace(
            self,
            recent_loss_WK=columns(self.recent_loss_WK, np.nan),
            recent_n_WC=self.recent_n_WC if self.shared else columns(self.recent_n_WC, 0),
            final_loss_PK=columns(self.final_loss_PK, np.nan),
            final_n=self.final_n if self.shared else columns(self.final_n, 0),
            sightings_K=columns(self.sightings_K, 0),
            ready_K=columns(self.ready_K, -1 if sampling.seen else 0),
        )

    def _imputed(self, row_K: Float32, known_K: NDArray[np.bool_], rows_K: Float64, sampling: Sampling) -> Float32:
        """Return the row with unknown losses replaced by the last known; if there is none, by NaN or the row's mean."""
        previous_K = self.recent_loss_WK[-1] if self.rows else np.full_like(row_K, np.nan)
        row_K = np.where(known_K, row_K, previous_K)
        if sampling.seen == 0 and np.isnan(row_K).any():
            weight_K = np.where(known_K, rows_K, 0.0)
            if (total := weight_K.sum()) > 0:
                mean = np.float32(weight_K @ np.where(known_K, row_K, 0.0) / total)
                row_K = np.where(np.isnan(row_K), mean, row_K)
        return row_K

    def _settled(self, sampling: Sampling) -> Self:
        """Return the history with the points that became final with its last row."""
        middle = sampling.window // 2
        first = self.rows - sampling.window
        if first < 0:
            return self
        if first:
            row = first + middle
            if row < sampling.ignore or (row - sampling.ignore) % self.every:
                return self
            at_Q = np.array([middle])
        else:
            at_Q = self._on_grid(np.arange(middle + 1), 0, sampling)
        loss_PK = np.concatenate([self.final_loss_PK, self._smoothed(at_Q, sampling)])
        n_PC = np.concatenate([self._final_n_PC(), self.recent_n_WC[at_Q]])
        every = self.every
        while sampling.most is not None and len(loss_PK) > sampling.most:
            loss_PK, n_PC, every = loss_PK[::2].copy(), n_PC[::2], 2 * every
        return replace(self, every=every, final_loss_PK=loss_PK, final_n=self._compact_n(n_PC))

    def _on_grid(self, at_Q: Int64, first: int, sampling: Sampling) -> Int64:
        """Return the places, in a window that begins at row `first`, whose rows give points."""
        row_Q = first + at_Q
        return at_Q[(row_Q >= sampling.ignore) & ((row_Q - sampling.ignore) % self.every == 0)]

    def _smoothed(self, at_Q: Int64, sampling: Sampling) -> Float32:
        """Return the smoothed losses at places of the last window, rounded to float32 only here."""
        with np.errstate(invalid="ignore"):
            smooth_QK = smoother(sampling.window, sampling.degree)[at_Q] @ self.recent_loss_WK.astype(np.float64)
            return smooth_QK.astype(np.float32)

    def _final_n_PC(self) -> Float64:
        if not self.shared:
            return self.final_n.astype(np.float64)
        return np.cumsum(np.repeat(self.final_n[:, 1], self.final_n[:, 0].astype(np.int64)))[:, None]

    def _compact_n(self, n_PC: Float64) -> NDArray[Any]:
        if not self.shared:
            return n_PC.astype(np.float32)
        grown_P = np.diff(n_PC[:, 0], prepend=0.0)
        begin_R = np.flatnonzero(np.diff(grown_P, prepend=np.nan) != 0)
        return np.stack([np.diff(begin_R, append=len(grown_P)), grown_P[begin_R]], axis=1).astype(np.float64)


@lru_cache(maxsize=8)
def smoother(window: int, degree: int) -> Float64:
    """Return the matrix, float64 [W, W], from the values of a window to those of the polynomial fitted to it."""
    basis_WD = np.vander(np.linspace(-1.0, 1.0, window), degree + 1)
    orthonormal_WD = np.linalg.qr(basis_WD)[0]
    matrix_WW = orthonormal_WD @ orthonormal_WD.T
    matrix_WW.flags.writeable = False
    return matrix_WW
