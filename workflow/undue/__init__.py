"""Undue Influence: how far influence-based data attributions can be steered, and who would notice."""
