"""Weights in and out: our bundles, and (convert.py) Meta's and transformers' files."""

from surg.model.bundle import Bundle, load_bundle, save_bundle

__all__ = ["Bundle", "load_bundle", "save_bundle"]
