"""Singular value decompositions of frozen weights, and their cache on disk."""

from hiplora.spectrum.cache import SpectrumCache, default_cache
from hiplora.spectrum.decompose import decompose
from hiplora.spectrum.prepare import BaseSpectra, spectrum_of
from hiplora.spectrum.spectrum import InputSpectrum, Spectrum, content_hash

__all__ = [
    "BaseSpectra",
    "InputSpectrum",
    "Spectrum",
    "SpectrumCache",
    "content_hash",
    "decompose",
    "default_cache",
    "spectrum_of",
]
