"""Photographs in, maps and pictures out: decoding, masks, overlays, panels, culling, and the page."""
