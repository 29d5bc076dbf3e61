"""Trains a 3D U-Net on the soft labels of GeoLS stores; reads nothing but the stores."""

from __future__ import annotations
