"""Influence held against the truth: models trained again without the samples."""
