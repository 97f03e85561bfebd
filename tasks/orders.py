"""Orders of the benchmarks of the literature."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_UNSEEN = ("cuhk01", "cuhk02", "viper", "prid2011", "ilids", "grid", "sensereid")

ORDERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "lreid-1": (("market1501", "cuhk_sysu", "lpw", "msmt17", "cuhk03"), _UNSEEN),
        "lreid-2": (("lpw", "msmt17", "market1501", "cuhk_sysu", "cuhk03"), _UNSEEN),
        "lreid-1-duke": (("market1501", "cuhk_sysu", "dukemtmc", "msmt17", "cuhk03"), _UNSEEN),
        "lreid-2-duke": (("dukemtmc", "msmt17", "market1501", "cuhk_sysu", "cuhk03"), _UNSEEN),
        "lreid-51": (("msmt17", "cuhk_sysu", "lpw", "market1501", "cuhk03"), _UNSEEN),
        "lreid-52": (("lpw", "market1501", "cuhk03", "msmt17", "cuhk_sysu"), _UNSEEN),
        "lreid-53": (("cuhk_sysu", "lpw", "cuhk03", "msmt17", "market1501"), _UNSEEN),
        "lreid-54": (("cuhk03", "msmt17", "lpw", "market1501", "cuhk_sysu"), _UNSEEN),
        "lreid-55": (("market1501", "msmt17", "lpw", "cuhk_sysu", "cuhk03"), _UNSEEN),
        "t2i-1": (("cuhk_pedes", "icfg_pedes", "rstpreid"), ()),
    }
)
"""Seen domains in lifelong order, and unseen domains, of the benchmarks of the literature."""
