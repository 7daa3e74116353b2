"""Pytest plug-ins: each puts our layer in the place of the layer that a suite is about."""
