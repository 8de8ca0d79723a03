"""One layer, direction by direction: where along the spectrum of the weight the update's energy lies."""

import numpy as np
import pandas as pd

from hiplora.adapters import Delta
from hiplora.measures.channels import channels
from hiplora.measures.null import leading, null_of
from hiplora.spectrum import Spectrum
from hiplora.spectrum.blas import one_blas_thread


@one_blas_thread()
def direction_table(spectrum: Spectrum, delta: Delta, adapter: str = "") -> pd.DataFrame:
    """Return one row per singular direction of the weight.

    Columns: `adapter, direction` (from 1), `sigma, sigma_share` (`s_i^2 / ||W0||_F^2`),
    `left, right` (shares `e_i / ||dW||^2` of the energy on `u_i` and
    `v_i`), `core_change` (`c_i = u_i^T dW v_i`), `gain` (`c_i / s_i`), `left_cumulative, right_cumulative` and, for
    each side, the isotropic null of the cumulative share: `*_null, *_null_low, *_null_high` (95 %).

    Args:
        spectrum: k triplets; the table has k rows.
        delta: (m, n).
        adapter: name, for the table.
    """
    energies = channels(delta, spectrum.Ut, spectrum.Vt)
    reach = leading(spectrum)
    total = energies.total or np.nan
    change = energies.core.diagonal()
    directions = np.arange(1, spectrum.k + 1)
    table = pd.DataFrame(
        {
            "adapter": adapter,
            "direction": directions,
            "sigma": spectrum.sigma,
            "sigma_share": spectrum.sigma**2 / (spectrum.frobenius**2 or np.nan),
            "left": energies.left / total,
            "right": energies.right / total,
            "core_change": change,
            "gain": np.divide(change, spectrum.sigma, out=np.full(spectrum.k, np.nan), where=spectrum.sigma > 0),
        }
    )
    for side in ("left", "right"):
        null = null_of(directions, spectrum.shape, delta.parts, side, reach)
        table[f"{side}_cumulative"] = table[side].cumsum()
        table[f"{side}_null"], table[f"{side}_null_low"], table[f"{side}_null_high"] = null.mean, null.low, null.high
    return table


@one_blas_thread()
def sweep_table(spectrum: Spectrum, delta: Delta, adapter: str = "") -> pd.DataFrame:
    """Return the principal block's share for every `k`, since the split depends on `k`.

    Columns: `adapter, principal_rank, pp, pp_null, pp_null_low, pp_null_high, enrichment`.

    Args:
        spectrum: K triplets; the table has K rows.
        delta: (m, n).
        adapter: name, for the table.
    """
    energies = channels(delta, spectrum.Ut, spectrum.Vt)
    ks = np.arange(1, spectrum.k + 1)
    pp = np.cumsum(np.cumsum(energies.core**2, axis=0), axis=1).diagonal() / (energies.total or np.nan)
    null = null_of(ks, spectrum.shape, delta.parts, reach=leading(spectrum))
    return pd.DataFrame(
        {
            "adapter": adapter,
            "principal_rank": ks,
            "pp": pp,
            "pp_null": null.mean,
            "pp_null_low": null.low,
            "pp_null_high": null.high,
            "enrichment": pp / null.mean,
        }
    )
