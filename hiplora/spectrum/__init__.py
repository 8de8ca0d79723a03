"""Singular value decompositions of frozen weights, and their cache on disk."""

from hiplora.spectrum.cache import SpectrumCache, default_cache
from hiplora.spectrum.decompose import decompose
from hiplora.spectrum.spectrum import Spectrum, content_hash

__all__ = ["Spectrum", "SpectrumCache", "content_hash", "decompose", "default_cache"]
